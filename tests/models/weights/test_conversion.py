"""Weights files as their authors publish them, made in miniature from a timm model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from miniature.backbones import shake
from miniature.weights import (
    dino,
    dinov3,
    headless,
    jax_arrays,
    mae,
    moco,
    moco_linear,
    swin,
    write,
)
from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.models.weights.load import WeightsReport, load_backbone_weights

VIT, SWIN_NAME = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"
SIZE: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32}
SWIN: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "img_size": 56}


def _build(name: str = VIT, **options: Any) -> Any:
    model = timm.create_model(name, **{"num_classes": 7, **SIZE, **options})
    shake(model)
    return model.eval()


def _blank(name: str = VIT, **options: Any) -> Any:
    """Return a model to load into, with another head."""
    return timm.create_model(name, **{"num_classes": 5, **SIZE, **options}).eval()


@torch.no_grad()
def _features(model: Any, images: Tensor) -> Tensor:
    return model.forward_head(model.forward_features(images), pre_logits=True)


def _assert_same_features(source: Any, model: Any, side: int = 32) -> None:
    images = torch.randn(2, 3, side, side)
    features = _features(source, images)
    assert features.std() > 0.01
    torch.testing.assert_close(_features(model, images), features)


@pytest.fixture
def plain() -> Any:
    return _build()


def _load_jax(arrays: dict[str, Any], tmp_path: Path, model: nn.Module) -> WeightsReport:
    np.savez(tmp_path / "ViT-B_16.npz", **arrays)
    return load_backbone_weights(model, tmp_path / "ViT-B_16.npz")


def test_the_original_vit_in_jax_names_loads(plain: Any, tmp_path: Path) -> None:
    model = _blank()
    bias = model.head.bias.clone()
    report = _load_jax(jax_arrays(plain), tmp_path, model)
    _assert_same_features(plain, model)
    assert torch.equal(model.head.bias, bias)
    assert len(report.loaded) == 30
    assert report.resized == ()
    assert set(report.dropped) == {
        f"{layer}/{part}" for layer in ("head", "pre_logits") for part in ("kernel", "bias")
    }


def test_a_prompted_model_takes_the_original_vit(plain: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "ViT-B_16.npz", **jax_arrays(plain))
    model: Any = create_model(VIT, 5, 4, pretrained=tmp_path / "ViT-B_16.npz", **SIZE)
    assert torch.equal(model.blocks[1].attn.qkv.weight, plain.blocks[1].attn.qkv.weight)


def test_the_original_vit_is_resampled_to_other_sizes(plain: Any, tmp_path: Path) -> None:
    model = _blank(img_size=64)
    report = _load_jax(jax_arrays(plain), tmp_path, model)
    assert report.resized == (("pos_embed", (1, 5, 48), (1, 17, 48)),)
    expected = resample_abs_pos_embed(
        plain.pos_embed, [4, 4], interpolation="bilinear", antialias=False
    )
    torch.testing.assert_close(model.pos_embed, expected)
    assert torch.equal(model.norm.weight, plain.norm.weight)
    report = _load_jax(jax_arrays(plain), tmp_path, _blank(img_size=16, patch_size=8))
    assert report.resized == (("patch_embed.proj.weight", (48, 3, 16, 16), (48, 3, 8, 8)),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "not a readable .npz of this VisionTransformer.*encoderblock_2"),
        ({"depth": 1}, r"unknown: Transformer/encoderblock_1/\S+"),
        ({"embed_dim": 60}, "not a readable .npz of this VisionTransformer"),
        ({"init_values": 1.0}, r"4 missing: blocks\.0\.ls1\.gamma, blocks\.0\.ls2"),
        ({"num_heads": 6}, r"unknown: \S+/query/kernel \(3 heads\)"),
    ],
    ids=["deeper", "shallower", "wider", "layer_scale", "heads"],
)
def test_the_original_vit_in_another_model_is_refused(
    plain: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=rf"ViT-B_16\.npz: .*{message}"):
        _load_jax(jax_arrays(plain), tmp_path, _blank(**options))


def test_another_npz_or_one_for_another_family_is_refused(plain: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a readable \.npz of this VisionTransformer"):
        _load_jax({"a": np.zeros(3)}, tmp_path, _blank())
    (tmp_path / "noise.npz").write_bytes(b"noise" * 100)
    with pytest.raises(UsageError, match=r"noise\.npz: not a readable \.npz"):
        load_backbone_weights(_blank(), tmp_path / "noise.npz")
    with pytest.raises(UsageError, match="for plain ViTs, not for SwinTransformer"):
        _load_jax(jax_arrays(plain), tmp_path, timm.create_model(SWIN_NAME, **SWIN))


@pytest.mark.parametrize(
    ("content", "dropped"),
    [
        (mae, {"mask_token", "decoder_pos_embed", "decoder_pred.bias"}),
        (moco, {"head.0.weight", "predictor.0.weight", "momentum_encoder.cls_token"}),
        (moco_linear, {"head.weight", "head.bias"}),
        (dino, {"head.mlp.0.weight"}),
    ],
)
def test_self_supervised_checkpoints_load(
    plain: Any, tmp_path: Path, content: Any, dropped: set[str]
) -> None:
    model = _blank()
    report = load_backbone_weights(model, write(content(plain), tmp_path / "w.pth.tar"))
    _assert_same_features(plain, model)
    assert len(report.loaded) == 30
    assert dropped <= set(report.dropped)
    assert set(report.missing) == {"head.weight", "head.bias"}
    if content is moco:  # the report counts them by kind
        assert "dropped: momentum_encoder (31), predictor (1), head (1)" in str(report)


def _deit3(source: Any) -> dict[str, Any]:
    names = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"}
    return {"model": _renamed(source.state_dict(), names)}


def _dinov2(source: Any) -> dict[str, Any]:
    state = _renamed(headless(source.state_dict()), {"reg_token": "register_tokens"})
    # There the class token has another position; timm adds it to the token.
    class_position = torch.randn(1, 1, 48)
    state["cls_token"] = state["cls_token"] - class_position
    state["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    return {**state, "mask_token": torch.zeros(1, 48)}


def _eva(source: Any) -> dict[str, Any]:
    # As masked pretraining leaves it: the gated MLP's parts are w1, w2, w3, the norm is for tokens.
    names = {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3", "fc_norm": "norm"}
    state = _renamed(headless(source.state_dict()), names)
    return {
        "module": {
            **state,
            "mask_token": torch.zeros(1, 1, 48),
            "lm_head.weight": torch.zeros(9, 48),
        }
    }


def _renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        renamed[key] = tensor
    assert renamed.keys() != state.keys()
    return renamed


@pytest.mark.parametrize(
    ("name", "side", "content", "dropped"),
    [
        ("deit3_small_patch16_224", 32, _deit3, {"head.weight", "head.bias"}),
        ("vit_small_patch14_reg4_dinov2", 28, _dinov2, {"mask_token"}),
        ("vit_small_patch16_dinov3", 32, dinov3, {"mask_token", "rope_embed.periods"}),
        ("vit_small_patch16_dinov3_qkvb", 32, dinov3, {"mask_token", "rope_embed.periods"}),
        ("eva02_tiny_patch14_224", 28, _eva, {"mask_token", "lm_head.weight"}),
    ],
)
def test_files_under_their_authors_names_load(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    side: int,
    content: Any,
    dropped: set[str],
) -> None:
    source, model = _build(name, img_size=side), _blank(name, img_size=side)
    report = load_backbone_weights(model, write(content(source), tmp_path / "w.pth"))
    _assert_same_features(source, model, side)
    assert report.resized == ()
    assert dropped <= set(report.dropped)
    assert capsys.readouterr().out == ""


def _swin(**options: Any) -> Any:
    model = timm.create_model(SWIN_NAME, num_classes=7, **{**SWIN, **options})
    shake(model)
    return model.eval()


def test_microsofts_swin_loads(tmp_path: Path) -> None:
    source, model = _swin(), timm.create_model(SWIN_NAME, num_classes=5, **SWIN).eval()
    bias = model.head.fc.bias.clone()
    report = load_backbone_weights(model, write(swin(source), tmp_path / "swin.pth"))
    _assert_same_features(source, model, side=56)
    assert torch.equal(model.head.fc.bias, bias)
    assert report.resized == ()
    assert report.missing == ("head.fc.weight", "head.fc.bias")
    assert "dropped: relative_position_index (4), head (2), attn_mask (1)" in str(report)


def test_swins_position_tables_are_resampled_to_another_window(tmp_path: Path) -> None:
    source, model = (
        _swin(),
        timm.create_model(SWIN_NAME, **{**SWIN, "window_size": 4, "img_size": 32}),
    )
    report = load_backbone_weights(model, write(swin(source), tmp_path / "swin.pth"))
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert (table, (169, 2), (49, 2)) in report.resized
    assert len(report.resized) == 4
    # The centre, a token's bias to itself, stays where it is.
    torch.testing.assert_close(
        model.get_parameter(table)[24], source.get_parameter(table)[84], atol=0.2, rtol=0.5
    )
    with pytest.raises(UsageError, match=r"missing: layers\.1\.blocks\.2\."):
        load_backbone_weights(_swin(depths=(2, 4)), tmp_path / "swin.pth")
