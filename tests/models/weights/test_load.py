"""Backbone weights from a local file in timm's own names, and those that ship with the package."""

import argparse
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from miniature.backbones import shake
from pcvpt.errors import UsageError
from pcvpt.models import PromptedVisionTransformer, create_model
from pcvpt.models.demo_vit import WEIGHTS
from pcvpt.models.weights.load import WeightsReport, load_backbone_weights

SIZE: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def _plain(**options: Any) -> nn.Module:
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=7, **SIZE, **options)
    shake(plain)
    return plain


def _write(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def _load(path: Path | str, backbone: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    arguments = {"img_size": 32, **SIZE, **options}
    return create_model(backbone, 5, 4, pretrained=path, **arguments)


def _backbone(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {k: v for k, v in state.items() if not k.startswith(("head.", "prompts."))}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.bin", "w.pth.tar"])
def test_a_saved_backbone_comes_back_without_its_head(tmp_path: Path, name: str) -> None:
    plain = _plain(img_size=32)
    model = _load(str(_write(plain.state_dict(), tmp_path / name)))
    loaded, saved = _backbone(model), _backbone(plain)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    torch.testing.assert_close(model.head.bias.detach(), torch.full((5,), -math.log(99)))
    headless = _load(_write(saved, tmp_path / name))
    assert torch.equal(headless.cls_token, plain.cls_token)


def test_positions_are_resampled_to_another_image_size(tmp_path: Path) -> None:
    plain = _plain(img_size=32)
    path = _write(plain.state_dict(), tmp_path / "w.safetensors")
    model = _load(path, img_size=64)
    loaded, saved = _backbone(model), _backbone(plain)
    positions = resample_abs_pos_embed(saved.pop("pos_embed"), [4, 4], num_prefix_tokens=1)
    assert positions.shape == (1, 17, 48)
    torch.testing.assert_close(loaded.pop("pos_embed"), positions)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def _report(model: nn.Module, state: Any, path: Path) -> WeightsReport:
    return load_backbone_weights(model, _write(state, path))


def test_the_report_names_each_tensor_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.pth"
    state, model = _plain(img_size=32).state_dict(), _plain(img_size=64)
    with caplog.at_level(logging.INFO, logger="pcvpt"):
        report = _report(model, state, path)
    assert caplog.messages == [str(report)]
    assert report.path == path
    assert set(report.loaded) == _backbone(model).keys()
    assert report.resized == (("pos_embed", (1, 5, 48), (1, 17, 48)),)
    assert sorted(report.dropped) == sorted(report.missing) == ["head.bias", "head.weight"]
    for part in (f"{path}: 30", "pos_embed (1, 5, 48) to (1, 17, 48)", "head (2)", "head.weight"):
        assert part in str(report)
    fitting = _report(model, _backbone(model), path)
    assert fitting.resized == fitting.dropped == ()
    patches = _report(_plain(img_size=16, patch_size=8), state, path)
    assert patches.resized == (("patch_embed.proj.weight", (48, 3, 16, 16), (48, 3, 8, 8)),)


@pytest.mark.parametrize(
    ("key", "prefix"),
    [
        ("model", ""),
        ("state_dict", "module."),
        ("module", "_orig_mod."),
        ("teacher", "backbone.encoder."),
        ("model_ema", "model."),
    ],
)
def test_wrappers_of_training_scripts_are_taken_away(tmp_path: Path, key: str, prefix: str) -> None:
    plain, model = _plain(img_size=32), _plain(img_size=32)
    nn.init.zeros_(model.get_parameter("cls_token"))
    state = {f"{prefix}{k}": v for k, v in plain.state_dict().items()}
    content = {key: state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
    report = _report(model, content, tmp_path / "w.pth")
    assert len(report.loaded) == 30
    assert all(torch.equal(v, _backbone(plain)[k]) for k, v in _backbone(model).items())


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    whole = _write(_plain(img_size=32).state_dict(), tmp_path / "w.safetensors").read_bytes()
    noise = b"not a state dict" * 10
    for name, content in (
        ("n.pth", noise),
        ("n.safetensors", noise),
        ("h.safetensors", whole[:5000]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name}: not a readable weights file"):
            _load(tmp_path / name)
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UsageError, match=rf"{re.escape(str(path))}: no such weights file"):
            _load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, r"missing: blocks\.2\.attn\.proj\.bias.* \.\.\."),
        ({"depth": 1}, r"unknown: blocks\.1\."),
        ({"embed_dim": 60}, "of another shape: blocks"),
    ],
)
def test_weights_of_another_model_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = _write(_plain(img_size=32).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=rf"w\.pth: the tensors do not fit .*{message}"):
        _load(path, **options)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = _write({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "r.pth")
    with pytest.raises(UsageError, match=r"2 unknown: conv1\.weight, fc\.bias"):
        _load(path)


def test_a_norm_after_pooling_that_the_file_lacks_has_a_remedy(tmp_path: Path) -> None:
    path = _write(_plain(img_size=32).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"2 missing: fc_norm.*timm_kwargs: \{fc_norm: false\}"):
        _load(path, global_pool="avg")
    model = _load(path, global_pool="avg", fc_norm=False)
    assert model.norm.weight.std() > 0


def test_a_tensor_that_is_not_finite_or_lacking_is_refused_by_its_name(tmp_path: Path) -> None:
    state = _plain(img_size=32).state_dict()
    state["norm.bias"][3] = float("nan")
    with pytest.raises(UsageError, match=r"1 not finite: norm\.bias"):
        _load(_write(state, tmp_path / "w.pth"))
    del state["norm.bias"]
    with pytest.raises(UsageError, match=r"1 missing: norm\.bias"):
        _load(_write(state, tmp_path / "w.pth"))


class _Foreign:
    """Stands for any class of a training script's own."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), r"holds a Tensor instead of named tensors"),
        ({"epoch": 3, "args": [1]}, r"holds no tensors \(found: args, epoch\)"),
        ({}, r"holds no tensors \(found: nothing\)"),
        ({"model": {}, "config": _Foreign()}, "holds Python objects beside tensors, which could"),
        ({"pcvpt": {}, "state_dict": {}}, "a checkpoint of pcvpt.*give it as --ckpt_path"),
    ],
)
def test_what_is_no_state_dict_is_refused_by_what_it_is(
    tmp_path: Path, content: Any, message: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=rf"w\.pth: .*{message}"):
        _load(tmp_path / "w.pth")


def test_a_file_of_two_backbones_is_refused(tmp_path: Path) -> None:
    state = _backbone(_plain(img_size=32))
    both = {f"{side}.{k}": v for side in ("left", "right") for k, v in state.items()}
    with pytest.raises(UsageError, match=r"holds several backbones \(left\., right\.\); save one"):
        _load(_write(both, tmp_path / "w.pth"))


@pytest.fixture(scope="module")
def demo() -> PromptedVisionTransformer:
    return create_model("vit_demo_patch8_32", 10, 4)


def test_the_demo_ships_with_its_weights(demo: PromptedVisionTransformer) -> None:
    assert WEIGHTS.stat().st_size <= 4_000_000
    shipped = load_file(WEIGHTS)
    state = _backbone(demo)
    assert state.keys() == shipped.keys()
    for name, value in shipped.items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], value.float()), name


def test_the_demos_weights_load_as_a_local_file_too(demo: PromptedVisionTransformer) -> None:
    local = create_model("vit_demo_patch8_32", 10, 4, pretrained=WEIGHTS)
    assert all(torch.equal(v, _backbone(demo)[k]) for k, v in _backbone(local).items())


def test_the_demo_takes_larger_images_with_its_weights() -> None:
    model = create_model("vit_demo_patch8_32", 10, 4, img_size=64)
    assert model.pos_embed.shape == (1, 65, 160)
    assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()
