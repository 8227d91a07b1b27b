"""Adapters: the loaded model is the one that was saved; what can't be is refused by name."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pcvpt import UsageError, create_model, load_adapter, save_adapter
from pcvpt.adapters import Adapter
from pcvpt.data import InputSpec, Preprocessing, settle
from pcvpt.models import PromptedTransformer
from pcvpt.models.weights.fingerprint import fingerprint

CLASSES, PROMPTS = 5, 6
SIZE: dict[str, Any] = {"depth": 3, "embed_dim": 48, "num_heads": 3}
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, **SIZE}),
    "not_square": ("vit_tiny_patch16_224", {"img_size": (32, 48), "global_pool": "avg", **SIZE}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"img_size": 28, **SIZE}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 32, **SIZE}),
    "eva": ("eva02_tiny_patch14_224", {"img_size": 28, **SIZE}),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 32, **SIZE}),
    "beit": ("beit_base_patch16_224", {"img_size": 32, **SIZE}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            **{"img_size": 32, "embed_dim": 12, "depths": (2, 1)},
            **{"num_heads": (2, 4), "window_size": 4},
        },
    ),
}
FAMILIES = pytest.mark.parametrize("family", BACKBONES)


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., tuple[PromptedTransformer, Path]]:
    """Build a trained model, ragged where it has prompts, and the file of its backbone."""

    def build(
        family: str = "vit", ragged: bool = True, **options: Any
    ) -> tuple[PromptedTransformer, Path]:
        name, size = BACKBONES[family]
        plain = timm.create_model(name, **size)
        _shake(plain)
        weights = tmp_path / f"{family}.pth"
        torch.save(plain.state_dict(), weights)
        prompts = 0 if options.get("mode") == "linear" else PROMPTS
        arguments = {"num_prompts": prompts, "pretrained": weights, **size, **options}
        model = create_model(name, CLASSES, **arguments)
        _shake(model.prompts)
        _shake(model.get_classifier())
        if ragged and prompts:
            mask = torch.zeros(8, PROMPTS, dtype=torch.bool)  # layer 1 keeps none
            mask[0, [0, 2, 5]] = mask[2, 1] = True
            model.prompts.apply_mask(list(mask[: len(model.prompts.keep)]))
        return model.eval(), weights

    return build


def _shake(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        base = parameter.data if parameter.ndim == 1 else 0
        parameter.data = base + 0.2 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def _logits(model: PromptedTransformer) -> Tensor:
    size = model.patch_embed.img_size
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(2))
    return model(images.to(next(model.parameters()).dtype))


def _again(
    model: PromptedTransformer, weights: Path, **options: Any
) -> tuple[PromptedTransformer, Path]:
    path = save_adapter(model, weights.with_name("adapter.safetensors"), overwrite=True)
    return load_adapter(path, pretrained=weights, **options), path


@pytest.mark.parametrize("mode", ["deep", "shallow", "linear"])
@pytest.mark.parametrize("ragged", [True, False], ids=["ragged", "all_kept"])
@FAMILIES
def test_the_loaded_model_predicts_the_same_bits(
    pair: Any, family: str, mode: str, ragged: bool
) -> None:
    model, weights = pair(family, ragged, mode=mode)
    expected = _logits(model)
    loaded, _ = _again(model, weights)
    assert torch.equal(_logits(loaded), expected)
    assert not loaded.training
    assert loaded.prompts.counts() == model.prompts.counts()
    if mode == "deep" and ragged:
        assert loaded.prompts.counts() == [3, 0, 1]
    with torch.no_grad():
        loaded.get_classifier().bias += 1  # the comparison would notice
    assert not torch.equal(_logits(loaded), expected)


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_swin_with_pooled_prompts_comes_back(pair: Any, mode: str) -> None:
    model, weights = pair("swin", mode=mode, pool_prompts=True)
    loaded, _ = _again(model, weights)
    assert torch.equal(_logits(loaded), _logits(model))
    assert loaded.pool_prompts


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_the_literal_form_comes_back_as_such(pair: Any, family: str) -> None:
    model, weights = pair(family, execution="tokens")
    loaded, _ = _again(model, weights)
    assert loaded.execution == "tokens"
    assert torch.equal(_logits(loaded), _logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["vit", "eva", "swin"])
def test_other_precisions_come_back(pair: Any, family: str, dtype: torch.dtype) -> None:
    model, weights = pair(family)
    model.to(dtype)
    loaded, _ = _again(model, weights)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert torch.equal(_logits(loaded), _logits(model))


def test_half_precision_keeps_every_bit_of_its_tensors(pair: Any) -> None:
    model, weights = pair()
    loaded, _ = _again(model.half(), weights)
    assert fingerprint(loaded) == fingerprint(model)
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert torch.equal(loaded.prompts.layer_values(2)[0], model.prompts.layer_values(2)[1])


@pytest.mark.parametrize("mode", ["deep", "shallow", "linear"])
@pytest.mark.parametrize("family", ["vit", "dinov3", "swin"])
def test_a_frozen_model_is_saved_as_what_it_was_made_of(pair: Any, family: str, mode: str) -> None:
    model, weights = pair(family, mode=mode)
    model.freeze_prompts()
    loaded, _ = _again(model, weights)
    assert torch.equal(_logits(loaded.freeze_prompts()), _logits(model))


def test_no_prompt_need_be_left(pair: Any) -> None:
    model, weights = pair()
    model.prompts.apply_mask([torch.zeros(PROMPTS, dtype=torch.bool)] * 3)
    loaded, _ = _again(model, weights)
    assert loaded.prompts.counts() == [0, 0, 0]
    assert torch.equal(_logits(loaded), _logits(model))


def test_a_loaded_model_can_be_saved_again_and_trained_on(pair: Any, tmp_path: Path) -> None:
    model, weights = pair()
    loaded, _ = _again(model, weights)
    path = save_adapter(loaded, tmp_path / "second.safetensors")
    second = load_adapter(path, weights)
    assert torch.equal(_logits(second), _logits(model))
    assert second.adapter.num_prompts == PROMPTS
    second.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert second.prompts.values.grad.abs().sum() > 0


def test_saving_changes_nothing_of_the_model(pair: Any, tmp_path: Path) -> None:
    model, _ = pair()
    model.train()
    before = copy.deepcopy(model.state_dict())
    save_adapter(model, tmp_path / "a.safetensors")
    assert model.training
    assert model.state_dict().keys() == before.keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kept", [0, 3, PROMPTS])
def test_the_file_is_as_large_as_what_is_kept(pair: Any, tmp_path: Path, kept: int) -> None:
    model, _ = pair("vit", ragged=False)
    mask = [torch.arange(PROMPTS) < count for count in (kept, 0, 1)]
    model.prompts.apply_mask(mask)
    path = save_adapter(model, tmp_path / "a.safetensors")
    floats = (kept + 1) * 48 + CLASSES * (48 + 1)
    description = 2000
    assert 4 * floats < path.stat().st_size < 4 * floats + description
    with safe_open(path, "pt") as file:
        assert file.get_slice("prompts.values").get_shape() == [kept + 1, 48]


def test_the_adapter_says_what_a_user_needs(pair: Any, tmp_path: Path) -> None:
    model, weights = pair()
    steps = settle("vpt", InputSpec.of(model.pretrained_cfg, (32, 32)), "crop", augment=True)
    names = ["a", "b", "ç", "d d", ""]
    save_adapter(model, tmp_path / "a.safetensors", names, steps, {"seed": 3, "from": ["x", None]})
    adapter = load_adapter(str(tmp_path / "a.safetensors"), str(weights)).adapter
    assert isinstance(adapter, Adapter)
    assert adapter.class_names == tuple(names)
    assert adapter.preprocessing == replace(steps, augment=False)
    assert adapter.provenance == {"seed": 3, "from": ["x", None]}
    assert (adapter.backbone, adapter.mode) == ("vit_tiny_patch16_224", "deep")
    image = Image.effect_noise((50, 40), 90)
    prepared = adapter.preprocessing(image)
    rgb = image.convert("RGB")
    assert torch.equal(prepared, steps.normalized(steps.cut(steps.resized(rgb))))
    assert prepared.shape == (3, 32, 32)


def test_without_them_the_adapter_says_so(pair: Any) -> None:
    loaded, _ = _again(*pair())
    adapter = loaded.adapter
    assert (adapter.class_names, adapter.preprocessing, adapter.provenance) == (None, None, {})


def test_given_tensors_stand_in_for_those_of_the_model(pair: Any, tmp_path: Path) -> None:
    model, weights = pair()
    other = copy.deepcopy(model)
    _shake(other)  # also the backbone, which is not taken
    other.prompts.apply_mask([torch.arange(PROMPTS) < 2] * 3)
    path = save_adapter(model, tmp_path / "a.safetensors", trained=other.state_dict())
    loaded = load_adapter(path, weights)
    assert torch.equal(loaded.head.weight, other.head.weight)
    assert loaded.prompts.counts() == [2, 2, 2]
    assert fingerprint(loaded) == fingerprint(model)


def test_a_new_head_on_the_model_is_taken(pair: Any) -> None:
    model, weights = pair()
    model.reset_classifier(3)
    loaded, _ = _again(model.eval(), weights)
    assert loaded.num_classes == 3
    assert torch.equal(_logits(loaded), _logits(model))


def test_where_weights_come_from_does_not_go_into_the_file(pair: Any, tmp_path: Path) -> None:
    overlay = {"mean": (0.1, 0.2, 0.3), "file": str(tmp_path)}
    model, weights = pair("vit", pretrained_cfg_overlay=overlay, cache_dir=str(tmp_path))
    loaded, path = _again(model, weights)
    assert str(tmp_path) not in path.read_bytes().decode(errors="replace")
    assert torch.equal(_logits(loaded), _logits(model))


def test_the_caller_may_say_more_to_timm(pair: Any, tmp_path: Path) -> None:
    model, weights = pair()
    loaded, _ = _again(model, weights, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3)})
    assert loaded.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)


def test_a_file_that_is_there_is_replaced_only_on_request(pair: Any, tmp_path: Path) -> None:
    model, _ = pair()
    path = save_adapter(model, tmp_path / "deep" / "a.safetensors")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"a\.safetensors.*overwrite=True"):
        save_adapter(model, path)
    assert path.read_bytes() == before
    model.head.bias.data += 1
    save_adapter(model, path, overwrite=True)
    assert path.read_bytes() != before
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_write_that_fails_leaves_the_file_before(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = pair()
    path = save_adapter(model, tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        save_adapter(model, path, provenance={"more": "x"}, overwrite=True)
    assert path.read_bytes() == before
    assert len(list(tmp_path.glob("*a.safetensors*"))) == 1


def _steps(**changes: Any) -> Preprocessing:
    numbers = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    fields = {"size": (32, 32), "resize": "crop", "augment": False, "interpolation": "bilinear"}
    return Preprocessing(**{**fields, "short_side": 36, **numbers, **changes})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"class_names": ["a"]}, "1 class names for a head of 5"),
        ({"class_names": "abcde"}, "give a list"),
        ({"class_names": [1, 2, 3, 4, 5]}, "class_names"),
        ({"preprocessing": _steps(size=(64, 64), short_side=64)}, r"\(64, 64\) for a model"),
        ({"preprocessing": _steps(short_side=20)}, "crops more than it has"),
        ({"preprocessing": _steps(std=(0.0, 1.0, 1.0))}, "std"),
        ({"preprocessing": _steps(interpolation="guess")}, "interpolation"),
        ({"provenance": {"accuracy": float("nan")}}, "finite"),
        ({"provenance": {"model": nn.Linear(1, 1)}}, "plain"),
        ({"trained": {}}, "prompts.keep is missing"),
    ],
)
def test_what_could_not_be_loaded_is_not_written(
    pair: Any, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    model, _ = pair()
    path = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match=rf"{re.escape(str(path))}: not written: .*{reason}"):
        save_adapter(model, path, **options)
    assert not path.exists()


def _of_two_precisions(model: PromptedTransformer) -> None:
    model.blocks[0].half()


def _nan(model: PromptedTransformer) -> None:
    model.head.weight.data[0, 0] = float("nan")


def _unnamed(model: PromptedTransformer) -> None:
    model.blueprint = None


def _pooled_otherwise(model: PromptedTransformer) -> None:
    model.reset_classifier(5, global_pool="avg")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_of_two_precisions, "several precisions"),
        (_nan, "head.weight does not hold finite"),
        (_unnamed, "create_model"),
        (_pooled_otherwise, "global_pool"),
    ],
)
def test_a_model_that_could_not_be_rebuilt_is_refused(
    pair: Any, tmp_path: Path, change: Callable[[PromptedTransformer], None], reason: str
) -> None:
    model, _ = pair()
    change(model)
    with pytest.raises(UsageError, match=f"not written: .*{reason}"):
        save_adapter(model, tmp_path / "a.safetensors")


def test_what_is_no_prompted_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a Linear is no model"):
        save_adapter(nn.Linear(1, 1), tmp_path / "a.safetensors")  # type: ignore[arg-type]


def test_arguments_that_a_file_can_not_hold_are_refused_when_it_is_written(tmp_path: Path) -> None:
    name, size = BACKBONES["vit"]
    model = create_model(name, 5, 2, pretrained=False, norm_layer=nn.LayerNorm, **size)
    with pytest.raises(UsageError, match="norm_layer"):
        save_adapter(model, tmp_path / "a.safetensors")


def test_another_backbone_is_refused(pair: Any, tmp_path: Path) -> None:
    model, weights = pair()
    state = torch.load(weights, weights_only=True)
    state["norm.weight"][0] += 1e-6
    other = tmp_path / "other.pth"
    torch.save(state, other)
    path = save_adapter(model, tmp_path / "a.safetensors")
    for given in (other, False):
        with pytest.raises(UsageError, match=r"a\.safetensors: trained on a backbone .*other"):
            load_adapter(path, given)


def test_the_demo_needs_nothing_but_its_adapter(tmp_path: Path) -> None:
    model = create_model("vit_demo_patch8_32", 4, 3).eval()
    loaded = load_adapter(save_adapter(model, tmp_path / "a.safetensors"))
    assert torch.equal(_logits(loaded), _logits(model))


def test_files_of_other_kinds_are_refused_by_name(pair: Any, tmp_path: Path) -> None:
    _, weights = pair()
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for path, reason in (
        (foreign, "not an adapter"),
        (weights, "not a readable adapter"),
        (empty, "not a readable adapter"),
        (tmp_path / "absent.safetensors", "no such file"),
        (tmp_path, "no such file"),
    ):
        with pytest.raises(UsageError, match=rf"^{re.escape(str(path))}: {reason}"):
            load_adapter(path, weights)
