"""Weights files as their authors publish them, made in miniature from a timm model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from miniature.backbones import PLAIN, images, timm_model
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
from pcvpt.models.weights.load import load_backbone_weights


@torch.no_grad()
def _features(model: Any) -> Tensor:
    return model.forward_head(model.forward_features(images(model)), pre_logits=True)


def _renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        renamed[key] = tensor
    assert renamed.keys() != state.keys()
    return renamed


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
    masks = {"mask_token": torch.zeros(1, 1, 48), "lm_head.weight": torch.zeros(9, 48)}
    return {"module": {**state, **masks}}


@pytest.mark.parametrize(
    ("backbone", "content", "dropped"),
    [
        ("class_token", jax_arrays, ["head/kernel", "head/bias", "pre_logits/kernel"]),
        ("class_token", mae, ["mask_token", "decoder_pos_embed", "decoder_pred.bias"]),
        ("class_token", moco, ["predictor.0.weight", "momentum_encoder.cls_token"]),
        ("class_token", moco_linear, ["head.weight", "head.bias"]),
        ("class_token", dino, ["head.mlp.0.weight"]),
        ("positions_without_class", _deit3, ["head.weight", "head.bias"]),
        ("registers_and_layer_scale", _dinov2, ["mask_token"]),
        ("dinov3", dinov3, ["mask_token", "rope_embed.periods"]),
        ("vit_small_patch16_dinov3_qkvb", dinov3, ["mask_token", "rope_embed.periods"]),
        ("eva02", _eva, ["mask_token", "lm_head.weight"]),
        ("swin", swin, ["head.weight", "layers.0.blocks.1.attn_mask"]),
    ],
)
def test_files_under_their_authors_names_load(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    backbone: str,
    content: Any,
    dropped: list[str],
) -> None:
    source, model = timm_model(backbone, num_classes=7), timm_model(backbone, shaken=False)
    head = model.get_classifier().bias.clone()
    if content is jax_arrays:
        path = tmp_path / "ViT-B_16.npz"
        np.savez(path, **content(source))
    else:
        path = write(content(source), tmp_path / "w.pth.tar")
    report = load_backbone_weights(model, path)
    features = _features(source)
    assert features.std() > 0.01
    torch.testing.assert_close(_features(model), features)
    assert torch.equal(model.get_classifier().bias, head)
    assert set(report.loaded) == headless(model.state_dict()).keys()
    assert set(report.missing) == model.state_dict().keys() - set(report.loaded)
    assert report.resized == ()
    assert set(dropped) <= set(report.dropped)
    counts = {  # the report counts them by kind
        moco: "dropped: momentum_encoder (43), predictor (1), head (1)",
        swin: "dropped: relative_position_index (3), head (2), attn_mask (1)",
    }
    assert counts.get(content, "dropped: ") in str(report)
    assert capsys.readouterr().out == ""


def test_an_npz_is_for_plain_vits_and_holds_one(tmp_path: Path) -> None:
    path, source = tmp_path / "w.npz", timm_model()
    np.savez(path, **jax_arrays(source))
    model: Any = create_model("vit_tiny_patch16_224", 5, 4, pretrained=path, **PLAIN)
    assert torch.equal(model.blocks[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)
    with pytest.raises(UsageError, match=r"this SwinTransformer .* a plain ViT"):
        load_backbone_weights(timm_model("swin"), path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(UsageError, match=r"not a readable \.npz of this VisionTransformer"):
        load_backbone_weights(timm_model(), path)


def test_swins_position_tables_are_resampled_to_another_window(tmp_path: Path) -> None:
    source, model = timm_model("swin"), timm_model("swin_one_window", shaken=False)
    path = write(swin(source), tmp_path / "swin.pth")
    report = load_backbone_weights(model, path)
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert (table, (49, 2), (225, 2)) in report.resized
    assert len(report.resized) == 2
    # The centre, a token's bias to itself, stays where it is.
    torch.testing.assert_close(model.get_parameter(table)[112], source.get_parameter(table)[24])
    with pytest.raises(UsageError, match=r"missing: layers\.1\.blocks\.1\."):
        load_backbone_weights(timm_model("swin", depths=(2, 2)), path)
