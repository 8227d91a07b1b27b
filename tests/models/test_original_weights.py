"""Weights files as their authors publish them, made in miniature from a timm model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

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

VIT = "vit_tiny_patch16_224"
SIZE: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 32}
SWIN: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "img_size": 56}


def _build(shake: Any, name: str = VIT, **options: Any) -> Any:
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
def plain(shake: Any) -> Any:
    return _build(shake)


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


def test_the_original_vit_is_resampled_to_another_image_size(plain: Any, tmp_path: Path) -> None:
    model = _blank(img_size=64)
    report = _load_jax(jax_arrays(plain), tmp_path, model)
    assert report.resized == (("pos_embed", (1, 5, 48), (1, 17, 48)),)
    expected = resample_abs_pos_embed(
        plain.pos_embed, [4, 4], interpolation="bilinear", antialias=False
    )
    torch.testing.assert_close(model.pos_embed, expected)
    assert torch.equal(model.norm.weight, plain.norm.weight)


def test_the_original_vit_is_resampled_to_another_patch_size(plain: Any, tmp_path: Path) -> None:
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


def test_an_npz_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a readable \.npz of this VisionTransformer"):
        _load_jax({"a": np.zeros(3)}, tmp_path, _blank())
    (tmp_path / "noise.npz").write_bytes(b"noise" * 100)
    with pytest.raises(UsageError, match=r"noise\.npz: not a readable \.npz"):
        load_backbone_weights(_blank(), tmp_path / "noise.npz")


def test_an_npz_for_a_swin_is_refused(plain: Any, tmp_path: Path) -> None:
    model = timm.create_model("swin_tiny_patch4_window7_224", **SWIN)
    with pytest.raises(UsageError, match="for plain ViTs, not for SwinTransformer"):
        _load_jax(jax_arrays(plain), tmp_path, model)


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


def test_the_line_counts_what_was_dropped_by_kind(plain: Any, tmp_path: Path) -> None:
    report = load_backbone_weights(_blank(), write(moco(plain), tmp_path / "moco.pth"))
    assert "dropped: momentum_encoder (31), predictor (1), head (1)" in str(report)


def test_deit3s_original_layer_scales_load(shake: Any, tmp_path: Path) -> None:
    source = _build(shake, "deit3_small_patch16_224")
    state = {
        k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v
        for k, v in source.state_dict().items()
    }
    assert "blocks.0.gamma_1" in state
    model = _blank("deit3_small_patch16_224")
    load_backbone_weights(model, write({"model": state}, tmp_path / "deit3.pth"))
    _assert_same_features(source, model)


def test_dinov2_under_its_original_names_loads(shake: Any, tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    source = _build(shake, name, img_size=28)
    state = headless(source.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 48)
    # There the class token has a position of its own; timm adds it to the token.
    class_position = torch.randn(1, 1, 48)
    state["cls_token"] = state["cls_token"] - class_position
    state["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    model = _blank(name, img_size=28)
    report = load_backbone_weights(model, write(state, tmp_path / "dinov2.pth"))
    _assert_same_features(source, model, side=28)
    assert report.resized == ()
    assert report.dropped == ("mask_token",)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
def test_dinov3_under_its_original_names_loads(
    shake: Any, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, model = _build(shake, name), _blank(name)
    report = load_backbone_weights(model, write(dinov3(source), tmp_path / "dinov3.pth"))
    _assert_same_features(source, model)
    assert {"mask_token", "rope_embed.periods"} <= set(report.dropped)
    assert capsys.readouterr().out == ""


def test_eva_under_its_original_names_loads(shake: Any, tmp_path: Path) -> None:
    name, size = "eva02_tiny_patch14_224", {"img_size": 28}
    source, model = _build(shake, name, **size), _blank(name, **size)
    # As masked pretraining leaves it: the gated MLP's parts are w1, w2, w3, the norm is for tokens.
    parts = {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3", "fc_norm": "norm"}
    state = {"mask_token": torch.zeros(1, 1, 48), "lm_head.weight": torch.zeros(9, 48)}
    for key, tensor in headless(source.state_dict()).items():
        for ours, theirs in parts.items():
            key = key.replace(ours, theirs)
        state[key] = tensor
    report = load_backbone_weights(model, write({"module": state}, tmp_path / "eva.pt"))
    _assert_same_features(source, model, side=28)
    assert set(report.dropped) == {"mask_token", "lm_head.weight"}


def test_microsofts_swin_loads(shake: Any, tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    source = timm.create_model(name, num_classes=7, **SWIN).eval()
    shake(source)
    model: Any = timm.create_model(name, num_classes=5, **SWIN).eval()
    bias = model.head.fc.bias.clone()
    report = load_backbone_weights(model, write(swin(source), tmp_path / "swin.pth"))
    _assert_same_features(source, model, side=56)
    assert torch.equal(model.head.fc.bias, bias)
    assert report.resized == ()
    assert report.missing == ("head.fc.weight", "head.fc.bias")
    assert "dropped: relative_position_index (4), head (2), attn_mask (1)" in str(report)


def test_swins_position_tables_are_resampled_to_another_window(shake: Any, tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    source = timm.create_model(name, num_classes=7, **SWIN)
    shake(source)
    model: Any = timm.create_model(name, **{**SWIN, "window_size": 4, "img_size": 32})
    report = load_backbone_weights(model, write(swin(source), tmp_path / "swin.pth"))
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert (table, (169, 2), (49, 2)) in report.resized
    assert len(report.resized) == 4
    # The centre, a token's bias to itself, stays where it is.
    torch.testing.assert_close(
        model.get_parameter(table)[24], source.get_parameter(table)[84], atol=0.2, rtol=0.5
    )


def test_swin_files_of_another_size_are_refused(shake: Any, tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    source = timm.create_model(name, **SWIN)
    model = timm.create_model(name, **{**SWIN, "depths": (2, 4)})
    with pytest.raises(UsageError, match=r"missing: layers\.1\.blocks\.2\."):
        load_backbone_weights(model, write(swin(source), tmp_path / "swin.pth"))
