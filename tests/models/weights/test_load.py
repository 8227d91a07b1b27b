"""Backbone weights from a local file, and those that ship with the package."""

import argparse
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from miniature.backbones import PLAIN, timm_model
from miniature.weights import headless, jax_arrays
from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.models.demo_vit import WEIGHTS
from pcvpt.models.weights.load import load_backbone_weights


def _load(path: Path | str, **options: Any) -> Any:
    return create_model("vit_tiny_patch16_224", 5, 4, pretrained=path, **{**PLAIN, **options})


def _file(folder: Path, name: str) -> tuple[Path, Any]:
    """Return a ViT, and its file in timm's names, or in those of JAX."""
    path, source = folder / name, timm_model()
    if path.suffix == ".npz":
        np.savez(path, **jax_arrays(source))
    else:
        torch.save(source.state_dict(), path)
    return path, source


def _assert_backbone(model: nn.Module, expected: dict[str, Any]) -> None:
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("prompts.")}
    assert headless(state).keys() == expected.keys()
    assert all(torch.equal(state[name], value.float()) for name, value in expected.items())


@pytest.mark.parametrize(
    ("name", "key", "prefix"),
    [
        ("w.safetensors", None, ""),
        ("w.pth", "model", ""),
        ("w.pt", "state_dict", "module."),
        ("w.bin", "module", "_orig_mod."),
        ("w.pth.tar", "teacher", "backbone.encoder."),
        ("w.pth", "model_ema", "model."),
    ],
)
def test_a_saved_backbone_comes_back_without_its_head_and_wrappers(
    tmp_path: Path, name: str, key: str | None, prefix: str
) -> None:
    whole = timm_model().state_dict()
    for saved in (whole, headless(whole)):
        state = {f"{prefix}{k}": v for k, v in saved.items()}
        if key is None:
            save_file(state, tmp_path / name)
        else:
            content = {key: state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}
            torch.save(content, tmp_path / name)
        model = _load(str(tmp_path / name))
        _assert_backbone(model, headless(whole))
        assert not model.head.bias.any()


@pytest.mark.parametrize(
    ("name", "how"), [("w.pth", {}), ("w.npz", {"interpolation": "bilinear", "antialias": False})]
)
def test_positions_and_patches_are_resampled_to_other_sizes(
    tmp_path: Path, name: str, how: dict[str, Any]
) -> None:
    path, source = _file(tmp_path, name)
    model = timm_model(img_size=64, shaken=False)
    report = load_backbone_weights(model, path)
    assert report.resized == (("pos_embed", (1, 5, 48), (1, 17, 48)),)
    positions = resample_abs_pos_embed(source.pos_embed, [4, 4], **how)
    torch.testing.assert_close(model.pos_embed, positions)
    source.pos_embed = model.pos_embed
    _assert_backbone(model, headless(source.state_dict()))
    patches = load_backbone_weights(timm_model(img_size=16, patch_size=8), path)
    assert patches.resized == (("patch_embed.proj.weight", (48, 3, 16, 16), (48, 3, 8, 8)),)


def test_the_report_names_each_tensor_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (path, _), model = _file(tmp_path, "w.pth"), timm_model(img_size=64)
    with caplog.at_level(logging.INFO, logger="pcvpt"):
        report = load_backbone_weights(model, path)
    assert caplog.messages == [str(report)]
    assert report.path == path
    assert set(report.loaded) == headless(model.state_dict()).keys()
    assert sorted(report.dropped) == sorted(report.missing) == ["head.bias", "head.weight"]
    for part in (f"{path}: 42", "pos_embed (1, 5, 48) to (1, 17, 48)", "head (2)", "head.weight"):
        assert part in str(report)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    save_file(timm_model().state_dict(), tmp_path / "half.safetensors")
    contents = {"half.safetensors": (tmp_path / "half.safetensors").read_bytes()[:5000]}
    contents |= dict.fromkeys(("n.pth", "n.safetensors", "n.npz"), b"not a state dict" * 10)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name}: not a readable"):
            _load(tmp_path / name)
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UsageError, match=rf"{re.escape(str(path))}: no such weights file"):
            _load(path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("w.pth", {"depth": 4}, r"missing: blocks\.3\.attn\.proj\.bias.* \.\.\."),
        ("w.pth", {"depth": 1}, r"unknown: blocks\.1\."),
        ("w.pth", {"embed_dim": 60}, "of another shape: blocks"),
        ("w.pth", {"global_pool": "avg"}, r"2 missing: fc_norm.*timm_kwargs: \{fc_norm: false\}"),
        ("w.npz", {"depth": 4}, "not a readable .npz of this VisionTransformer.*encoderblock_3"),
        ("w.npz", {"depth": 2}, r"unknown: Transformer/encoderblock_2/\S+"),
        ("w.npz", {"embed_dim": 60}, "not a readable .npz of this VisionTransformer"),
        ("w.npz", {"init_values": 1.0}, r"6 missing: blocks\.0\.ls1\.gamma, blocks\.0\.ls2"),
        ("w.npz", {"num_heads": 6}, r"unknown: \S+/query/kernel"),
    ],
)
def test_weights_of_another_model_are_refused(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=rf"{re.escape(name)}: .*{message}"):
        _load(_file(tmp_path, name)[0], **options)


def test_a_pooling_without_its_norm_takes_the_norm_of_the_file(tmp_path: Path) -> None:
    path, source = _file(tmp_path, "w.pth")
    model = _load(path, global_pool="avg", fc_norm=False)
    assert torch.equal(model.norm.weight, source.norm.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), r"holds a Tensor instead of named tensors"),
        ({"epoch": 3, "args": [1]}, r"holds no tensors \(found: args, epoch\)"),
        ({}, r"holds no tensors \(found: nothing\)"),
        ({"model": {}, "config": Path()}, "holds Python objects beside tensors, which could"),
        ({"pcvpt": {}, "state_dict": {}}, "a checkpoint of pcvpt.*give it as --ckpt_path"),
        (dict.fromkeys(("fc.w", "fc.b"), torch.zeros(1)), r"2 unknown: fc\.b, fc\.w"),
        (lambda state: {**state, "norm.bias": state["norm.bias"] / 0}, r"1 not finite: norm\.bias"),
        (
            lambda state: {k: v for k, v in state.items() if k != "norm.bias"},
            r"1 missing: norm\.bias",
        ),
        (
            lambda state: {f"{a}.{k}": v for k, v in state.items() for a in ["left", "right"]},
            r"holds several backbones \(left\., right\.\); save one",
        ),
    ],
)
def test_a_file_is_refused_by_what_it_holds(tmp_path: Path, content: Any, message: str) -> None:
    state = headless(timm_model().state_dict())
    torch.save(content(state) if callable(content) else content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=rf"w\.pth: .*{message}"):
        _load(tmp_path / "w.pth")


def test_the_demo_ships_with_its_weights() -> None:
    assert WEIGHTS.stat().st_size <= 4_000_000
    for pretrained in (True, WEIGHTS):
        model = create_model("vit_demo_patch8_32", 10, 4, pretrained=pretrained)
        _assert_backbone(model, load_file(WEIGHTS))


def test_the_demo_takes_larger_images_with_its_weights() -> None:
    model = create_model("vit_demo_patch8_32", 10, 4, img_size=64)
    assert model.pos_embed.shape == (1, 65, 160)
    assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()
