"""Adapters: the loaded model is the one that was saved; what can't be is refused by name."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import pcvpt
from miniature.backbones import (
    CLASSES,
    PROMPTS,
    build,
    images,
    logits,
    masked,
    shake,
    timm_model,
    without_prompts,
)
from pcvpt import UsageError, create_model, load_adapter, save_adapter
from pcvpt.adapters import Adapter
from pcvpt.data import InputSpec, Preprocessing, settle
from pcvpt.models.weights.fingerprint import fingerprint

FAMILIES = ["class_token", "dinov3", "swin_pooled"]
OTHERS = ["siglip", "beit", "swin", "not_square", "average_pooling", "eva02"]
families = pytest.mark.parametrize(
    "backbone", [*FAMILIES, *(pytest.param(other, marks=pytest.mark.slow) for other in OTHERS)]
)


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    """Return a function that builds a model with some prompts masked, and its backbone's file."""

    def build_from_file(backbone: str = "class_token", **options: Any) -> tuple[Any, Path]:
        weights = tmp_path / f"{backbone}.pth"
        torch.save(timm_model(backbone).state_dict(), weights)
        return masked(build(backbone, pretrained=weights, **options)), weights

    return build_from_file


def _again(model: Any, weights: Path, **options: Any) -> tuple[Any, Path]:
    path = save_adapter(model, weights.with_name("adapter.safetensors"), overwrite=True)
    return load_adapter(path, pretrained=weights, **options), path


def _assert_same_bits(loaded: Any, model: Any) -> None:
    batch = torch.randn(3, 3, *model.patch_embed.img_size).to(model.prompts.dtype)
    assert torch.equal(logits(loaded, batch), logits(model, batch))


@pytest.mark.parametrize("mode", ["deep", "prefix", "shallow", "linear"])
@families
def test_the_loaded_model_predicts_the_same_bits(pair: Any, backbone: str, mode: str) -> None:
    model, weights = pair(backbone, mode=mode)
    loaded, _ = _again(model, weights)
    assert not loaded.training
    assert loaded.prompts.counts() == model.prompts.counts()
    _assert_same_bits(loaded, model)
    expected = logits(model)
    if mode != "linear":
        model.prompts.apply_mask(list(torch.ones_like(model.prompts.keep)))
        _assert_same_bits(_again(model, weights)[0], model)
    with torch.no_grad():
        loaded.get_classifier().bias += 1  # the comparison would notice
    assert not torch.equal(logits(loaded), expected)


@pytest.mark.parametrize("backbone", ["class_token", "swin"])
@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("tokens", "deep"),
        (torch.bfloat16, "deep"),
        (torch.float64, "deep"),
        ("no prompt", "deep"),
        ("frozen", "deep"),
        ("frozen", "shallow"),
        ("keys and values", "deep"),
        ("merged", "deep"),
        ("merged", "prefix"),
        ("merged", "shallow"),
        ("merged tokens", "deep"),
        ("merged and frozen", "deep"),
        ("merged, in bfloat16", "deep"),
    ],
)
def test_execution_precision_and_frozen_prompts_come_back(
    pair: Any, backbone: str, mode: str, form: Any
) -> None:
    model, weights = pair(backbone, mode=mode)
    if form == "tokens":
        model.execution = form
    elif form == "frozen":
        model.freeze_prompts()
    elif form == "no prompt":
        without_prompts(model)
    elif form == "keys and values":
        model.use_keys_values()
    elif isinstance(form, str):
        merged = pcvpt.merge_prompts(
            model, [(images(model),)], 0.5, form="token" if form == "merged tokens" else None
        )
        model.prompts.apply_merge(merged)
        if form == "merged and frozen":
            model.freeze_prompts()
        elif form == "merged, in bfloat16":
            model.to(torch.bfloat16)
    else:
        model.to(form)
    loaded, _ = _again(model, weights)
    if str(form).endswith("frozen"):  # it was saved as what it was made of
        loaded.freeze_prompts()
    assert loaded.execution == model.execution
    assert {p.dtype for p in loaded.parameters()} == {p.dtype for p in model.parameters()}
    _assert_same_bits(loaded, model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mode", ["deep", "prefix", "shallow"])
@pytest.mark.parametrize("backbone", ["class_token", "swin"])
def test_prompts_of_another_precision_take_that_of_the_backbone(
    pair: Any, backbone: str, mode: str, dtype: torch.dtype
) -> None:
    """Those of a run in bf16-true, for example, on the backbone as timm loads it."""
    model, weights = pair(backbone, mode=mode)
    trained = {name: x.to(dtype) if x.is_floating_point() else x for name, x in _state(model)}
    path = save_adapter(model, weights.with_name("adapter.safetensors"), trained=trained)
    loaded = load_adapter(path, pretrained=weights)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    model.load_state_dict(trained, strict=False)
    _assert_same_bits(loaded, model)


def _state(model: Any) -> Any:
    """Return names and tensors of the prompts and the head."""
    return ((k, v) for k, v in model.state_dict().items() if k.startswith(("prompts.", "head.")))


@pytest.mark.parametrize(
    ("form", "merge"), [("key_value", False), ("key_value", True), ("token", True)]
)
@families
def test_every_form_of_prompts_predicts_the_same_bits_on_every_family(
    pair: Any, backbone: str, form: Any, merge: bool
) -> None:
    pooled = {"pool_prompts": False} if form == "key_value" else {}
    model, weights = pair(backbone, **pooled)
    if merge:
        merged = pcvpt.merge_prompts(model, [(images(model),)], 0.5, form=form)
        model.prompts.apply_merge(merged)
    elif form == "key_value":
        model.use_keys_values()
    loaded, _ = _again(model, weights)
    assert loaded.prompts.form == form
    assert (loaded.prompts.log_weight is not None) == merge
    _assert_same_bits(loaded, model)


def test_half_precision_keeps_every_bit_of_its_tensors(pair: Any) -> None:
    model, weights = pair()
    loaded, _ = _again(model.half(), weights)
    assert fingerprint(loaded) == fingerprint(model)
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert torch.equal(loaded.prompts.layer_values(2)[0], model.prompts.layer_values(2)[1])


def test_a_loaded_model_can_be_saved_again_and_trained_on(pair: Any, tmp_path: Path) -> None:
    model, weights = pair()
    loaded, _ = _again(model, weights)
    second: Any = load_adapter(save_adapter(loaded, tmp_path / "second.safetensors"), weights)
    _assert_same_bits(second, model)
    assert second.adapter.num_prompts == PROMPTS
    second.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert second.prompts.values.grad.abs().sum() > 0


def test_saving_changes_nothing_of_the_model(pair: Any, tmp_path: Path) -> None:
    model, _ = pair()
    before = copy.deepcopy(model.train().state_dict())
    save_adapter(model, tmp_path / "a.safetensors")
    assert model.training
    torch.testing.assert_close(
        dict(model.state_dict()), dict(before), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("kept", [0, 3, PROMPTS])
def test_the_file_is_as_large_as_what_is_kept(tmp_path: Path, kept: int) -> None:
    model = build()
    model.prompts.apply_mask([torch.arange(PROMPTS) < count for count in (kept, 0, 1)])
    path = save_adapter(model, tmp_path / "a.safetensors")
    floats = (kept + 1) * 48 + CLASSES * (48 + 1)
    assert 4 * floats < path.stat().st_size < 4 * floats + 2000  # of the description
    with safe_open(path, "pt") as file:
        assert file.get_slice("prompts.values").get_shape() == [kept + 1, 48]


def test_the_adapter_holds_names_preprocessing_and_provenance(pair: Any, tmp_path: Path) -> None:
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
    assert torch.equal(prepared, steps.normalized(steps.cut(steps.resized(image.convert("RGB")))))
    assert prepared.shape == (3, 32, 32)
    bare = _again(model, weights)[0].adapter
    assert (bare.class_names, bare.preprocessing, bare.provenance) == (None, None, {})


def test_given_tensors_stand_in_for_those_of_the_model(pair: Any, tmp_path: Path) -> None:
    model, weights = pair()
    other = copy.deepcopy(model)
    shake(other)  # also the backbone, which is not taken
    other.prompts.apply_mask([torch.arange(PROMPTS) < 2] * 3)
    path = save_adapter(model, tmp_path / "a.safetensors", trained=other.state_dict())
    loaded: Any = load_adapter(path, weights)
    assert torch.equal(loaded.head.weight, other.head.weight)
    assert loaded.prompts.counts() == [2, 2, 2]
    assert fingerprint(loaded) == fingerprint(model)


def test_given_tensors_of_merged_prompts_are_not_written_without_their_weights(
    pair: Any, tmp_path: Path
) -> None:
    model, _ = pair(mode="prefix")
    merged = copy.deepcopy(model)
    merged.prompts.apply_merge(pcvpt.merge_prompts(model, [(images(model),)], 0.5))
    with pytest.raises(UsageError, match=r"not written: prompts\.log_weight"):
        save_adapter(model, tmp_path / "a.safetensors", trained=merged.state_dict())


@pytest.mark.parametrize(
    ("options", "keep", "written"),
    [
        ({}, None, "token"),
        ({"mode": "shallow"}, None, "token"),
        ({"mode": "prefix"}, None, "key_value"),
        ({}, 0.5, "key_value"),
        ({"mode": "shallow"}, 0.5, "token"),
    ],
)
def test_a_file_tells_the_form_of_its_prompts(
    tmp_path: Path, options: dict[str, Any], keep: float | None, written: str
) -> None:
    model = build(**options)
    if keep is not None:
        model.prompts.apply_merge(pcvpt.merge_prompts(model, [(images(model),)], keep))
    with safe_open(save_adapter(model, tmp_path / "a.safetensors"), "pt") as file:
        fields = json.loads(file.metadata()["pcvpt"])
    assert (fields["format"], fields["form"]) == (2, written)


def test_a_new_head_on_the_model_is_taken(pair: Any) -> None:
    model, weights = pair()
    model.reset_classifier(3)
    loaded, _ = _again(model.eval(), weights)
    assert loaded.num_classes == 3
    _assert_same_bits(loaded, model)


def test_the_file_does_not_hold_where_weights_come_from_but_the_caller_may_say(
    pair: Any, tmp_path: Path
) -> None:
    overlay = {"mean": (0.1, 0.2, 0.3), "file": str(tmp_path)}
    model, weights = pair(pretrained_cfg_overlay=overlay, cache_dir=str(tmp_path))
    loaded, path = _again(model, weights, pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3)})
    assert str(tmp_path) not in path.read_bytes().decode(errors="replace")
    assert loaded.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    _assert_same_bits(loaded, model)


def test_a_file_that_exists_is_replaced_only_on_request(tmp_path: Path) -> None:
    model = build()
    path = save_adapter(model, tmp_path / "deep" / "a.safetensors")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"a\.safetensors.*overwrite=True"):
        save_adapter(model, path)
    assert path.read_bytes() == before
    model.head.bias.data += 1
    save_adapter(model, path, overwrite=True)
    assert path.read_bytes() != before
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_a_write_that_fails_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_adapter(build(), tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        save_adapter(build(), path, provenance={"more": "x"}, overwrite=True)
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
        ({"class_names": "abcde"}, "class_names"),
        ({"class_names": [1, 2, 3, 4, 5]}, "class_names"),
        ({"preprocessing": _steps(size=(64, 64), short_side=64)}, r"\(64, 64\) for a model"),
        ({"preprocessing": _steps(short_side=20)}, "crops"),
        ({"preprocessing": _steps(std=(0.0, 1.0, 1.0))}, "std"),
        ({"preprocessing": _steps(interpolation="guess")}, "interpolation"),
        ({"provenance": {"accuracy": float("nan")}}, "finite"),
        ({"provenance": {"model": nn.Linear(1, 1)}}, "plain"),
        ({"trained": {}}, "prompts.keep"),
    ],
)
def test_what_could_not_be_loaded_is_not_written(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match=rf"{re.escape(str(path))}: not written: .*{reason}"):
        save_adapter(build(), path, **options)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model.blocks[0].half(), "several precisions"),
        (lambda model: model.head.weight.data.fill_(float("nan")), "head.weight"),
        (lambda model: setattr(model, "blueprint", None), "create_model"),
        (lambda model: model.reset_classifier(5, global_pool="avg"), "global_pool"),
    ],
)
def test_a_model_that_could_not_be_rebuilt_is_refused(
    tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    model = build()
    change(model)
    with pytest.raises(UsageError, match=f"not written: .*{reason}"):
        save_adapter(model, tmp_path / "a.safetensors")


def test_models_that_no_file_can_describe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Linear"):
        save_adapter(nn.Linear(1, 1), tmp_path / "a.safetensors")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="norm_layer"):
        save_adapter(build(norm_layer=nn.LayerNorm), tmp_path / "a.safetensors")


def test_another_backbone_is_refused(pair: Any, tmp_path: Path) -> None:
    model, weights = pair()
    state = torch.load(weights, weights_only=True)
    state["norm.weight"][0] += 1e-6
    torch.save(state, tmp_path / "other.pth")
    path = save_adapter(model, tmp_path / "a.safetensors")
    for given in (tmp_path / "other.pth", False):
        with pytest.raises(UsageError, match=r"a\.safetensors: .*fingerprint"):
            load_adapter(path, given)


def test_the_demo_needs_nothing_but_its_adapter(tmp_path: Path) -> None:
    model = create_model("vit_demo_patch8_32", 4, 3, head_init="vpt").eval()
    _assert_same_bits(load_adapter(save_adapter(model, tmp_path / "a.safetensors")), model)


def test_files_of_other_kinds_are_refused_by_name(pair: Any, tmp_path: Path) -> None:
    _, weights = pair()
    foreign, empty = tmp_path / "foreign.safetensors", tmp_path / "empty.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    empty.touch()
    reasons = {foreign: "not an adapter", weights: "not a readable", empty: "not a readable"}
    reasons |= {tmp_path / "absent.safetensors": "no such file", tmp_path: "no such file"}
    for path, reason in reasons.items():
        with pytest.raises(UsageError, match=rf"^{re.escape(str(path))}: {reason}"):
            load_adapter(path, weights)
