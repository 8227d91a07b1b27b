"""An exported file predicts what the model predicts, or it is not there."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pcvpt
from miniature.backbones import CLASSES, build, images, masked, timm_model
from pcvpt import UsageError, load_adapter, save_adapter
from pcvpt.adapters import export
from pcvpt.adapters.export import export_model, load_exported
from pcvpt.data import InputSpec, settle

NAMES = tuple("abcde")
FAMILIES = ["class_token", "clip", "siglip", "dinov3", "eva02", "beit", "swin"]


def _model(tmp_path: Path, backbone: str, mode: str = "deep", merge: bool = False) -> Any:
    """Return a condensed model that was loaded from an adapter with preprocessing."""
    weights = tmp_path / f"{backbone}.pth"
    torch.save(timm_model(backbone).state_dict(), weights)
    model = build(backbone, pretrained=weights, mode=mode)
    if merge:
        model.prompts.apply_merge(pcvpt.merge_prompts(model, [(images(model),)], 0.5))
    else:
        masked(model)
    spec = InputSpec(model.patch_embed.img_size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    steps = settle("timm", spec, "squash", augment=False)
    provenance = {"data": {"protocol": "timm"}}
    path = tmp_path / "adapter.safetensors"
    save_adapter(model, path, NAMES, preprocessing=steps, provenance=provenance)
    return load_adapter(path, pretrained=weights)


def _pixels(model: Any, *sizes: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for size in sizes:
        shape = size, 3, *model.adapter.preprocessing.size
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        yield pixels, torch.arange(size) % CLASSES


CASES = [
    ("class_token", "deep", False, "onnx"),
    ("class_token", "deep", False, "exported_program"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in product(
            FAMILIES, ["deep", "shallow"], [False, True], ["onnx", "exported_program"]
        )
        if case[:3] != ("class_token", "deep", False)
    ),
]


@pytest.mark.parametrize(("backbone", "mode", "merge", "kind"), CASES)
def test_a_file_predicts_the_same_from_pixels_in_batches_of_any_size(
    tmp_path: Path, backbone: str, mode: str, merge: bool, kind: Any
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    model = _model(tmp_path, backbone, mode, merge)
    path = tmp_path / f"model{export.SUFFIXES[kind]}"
    batches = list(_pixels(model, 1, 4, 2))
    metadata = export_model(model, path, kind, batches)
    assert metadata["images"] == "7"
    assert metadata["accuracy_torch"] == metadata["accuracy_exported"]
    assert metadata["same_class"] == "100.00 %"
    loaded = load_exported(path)
    assert loaded.adapter == model.adapter
    assert loaded.metadata == metadata
    assert metadata["protocol"] == "timm"
    assert metadata["class_names"] == '["a", "b", "c", "d", "e"]'
    for pixels, _ in batches:
        with torch.no_grad():
            expected = model(model.adapter.preprocessing.normalized(pixels))
        torch.testing.assert_close(loaded(pixels), expected, rtol=1e-4, atol=1e-4)
        found = loaded.probabilities(pixels)
        torch.testing.assert_close(found, expected.softmax(1), rtol=1e-4, atol=1e-4)


def test_normalised_images_and_probabilities_on_demand(tmp_path: Path) -> None:
    model = _model(tmp_path, "class_token")
    path = tmp_path / "model.pt2"
    (pixels, labels), kind = next(_pixels(model, 3)), "exported_program"
    export_model(model, path, kind, [(pixels, labels)], preprocessing=False, softmax=True)
    loaded = load_exported(path)
    normalised = model.adapter.preprocessing.normalized(pixels)
    expected = model(normalised).softmax(1)
    torch.testing.assert_close(loaded.call(normalised), expected)
    torch.testing.assert_close(loaded(pixels), expected)
    torch.testing.assert_close(loaded.probabilities(pixels), expected)


def test_half_precision_is_accepted_by_accuracy(tmp_path: Path) -> None:
    model = _model(tmp_path, "class_token")
    path, batches = tmp_path / "model.pt2", [(next(_pixels(model, 4))[0], None)]
    metadata = export_model(model, path, "exported_program", batches, half=True)
    assert metadata["precision"] == "float16"
    assert metadata["accuracy_exported"] == metadata["accuracy_torch"] == "100.00 %"
    found = load_exported(path)(batches[0][0])
    assert found.dtype == torch.float32
    assert (found - model(model.adapter.preprocessing.normalized(batches[0][0]))).abs().max() > 0


@pytest.mark.parametrize("half", [False, True])
def test_a_file_that_predicts_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    model = _model(tmp_path, "class_token")
    opened = export._opened
    shift = torch.tensor([0.0, 0.0, 0.0, 0.0, 100.0] if half else [0.0, 0.0, 0.0, 0.0, 0.01])

    def wrong(*arguments: Any) -> Any:
        found = opened(*arguments)
        return found._replace(call=lambda images: found.call(images) + shift)

    monkeypatch.setattr(export, "_opened", wrong)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError, match="not written: run by its own runtime on 4 images"):
        export_model(model, tmp_path / "x.pt2", "exported_program", _pixels(model, 4), half=half)
    with pytest.raises(UsageError, match="no images"):
        export_model(model, tmp_path / "x.pt2", "exported_program", [])
    assert sorted(tmp_path.iterdir()) == before


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.pt2"):
        (tmp_path / name).write_bytes(b"something else")
        if name == "a.onnx":
            pytest.importorskip("onnxruntime")
        with pytest.raises(UsageError, match=rf"{name}: not a model of"):
            load_exported(tmp_path / name)
    for name in ("gone.onnx", "a.txt"):
        with pytest.raises(UsageError, match=rf"{name}: no such exported model"):
            load_exported(tmp_path / name)
