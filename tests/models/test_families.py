"""Every family: what stays timm's, scores, sizes, poolings and half precision."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcvpt import score_prompts
from pcvpt.errors import UsageError
from pcvpt.models import create_model

OF_EACH_FAMILY = ["class_token", "eva02", "dinov3", "beit", "beit_shared_bias"]


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def _assert_timms(found: Tensor, expected: Tensor, backbone: str) -> None:
    if backbone == "beit_shared_bias":  # timm hands over a bias that fused attention does not take
        assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    else:
        assert torch.equal(found, expected)


def test_without_prompts_the_model_is_timms_bit_for_bit(
    build: Any, plain: Any, images: Any, backbone: str
) -> None:
    model = build(backbone, mode="linear", num_prompts=0, execution="tokens")
    own, batch = plain(model, backbone), images(model)
    _assert_timms(_logits(model, batch), _logits(own, batch), backbone)
    with torch.no_grad():
        _assert_timms(model.forward_features(batch), own.forward_features(batch), backbone)


def test_with_every_prompt_masked_the_model_is_timms_bit_for_bit(
    build: Any, plain: Any, images: Any, backbone: str, mode: str
) -> None:
    model = build(backbone, mode=mode, execution="tokens")
    own, batch = plain(model, backbone), images(model)
    assert not torch.equal(_logits(model, batch), _logits(own, batch))
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
    _assert_timms(_logits(model, batch), _logits(own, batch), backbone)


@pytest.mark.parametrize("backbone", ["dinov3", "eva_post_norm", "beit"])
def test_the_backbones_own_dropout_is_off_while_training(
    build: Any, images: Any, backbone: str, mode: str, execution: str
) -> None:
    names = ("pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
    model = build(backbone, mode=mode, execution=execution, **dict.fromkeys(names, 0.5))
    expected = _logits(model, images(model))
    assert torch.equal(_logits(model.train(), images(model)), expected)


@pytest.mark.parametrize("backbone", ["class_token", "registers_and_layer_scale", "no_qkv_bias"])
def test_of_the_last_blocks_tokens_neither_keys_nor_values_are_computed(
    build: Any, images: Any, monkeypatch: pytest.MonkeyPatch, backbone: str, mode: str
) -> None:
    model = build(backbone, mode=mode)
    last, seen = model.blocks[-1].attn, []
    original = type(last).project_parts

    def record(attention: Any, x: Tensor, first: int, final: int) -> Any:
        if attention is last:
            seen.append((x.shape[1], "qkv"[first:final]))
        return original(attention, x, first, final)

    monkeypatch.setattr(type(last), "project_parts", record)
    _logits(model, images(model))
    assert seen == [(1, "q"), *([(4, "kv")] if mode == "deep" else [])]


@pytest.mark.parametrize("backbone", OF_EACH_FAMILY)
@pytest.mark.parametrize("method", ["gate", "token", "attention", "leave_one_out"])
def test_prompts_of_every_family_are_scored(
    build: Any, images: Any, backbone: str, mode: str, method: Any
) -> None:
    model = build(backbone, mode=mode)
    scores = torch.stack(score_prompts(model, [(images(model), torch.arange(3))], method))
    assert scores.shape == model.prompts.keep.shape
    assert scores.isfinite().all()
    assert (scores != 0).all()


@pytest.mark.parametrize("backbone", ["qk_norm", "dinov3", "beit"])
def test_the_last_block_computes_only_the_class_tokens_row(
    build: Any, images: Any, monkeypatch: pytest.MonkeyPatch, backbone: str, mode: str
) -> None:
    model = build(backbone, mode=mode)
    original = F.scaled_dot_product_attention
    rows = []

    def record(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        rows.append((q.shape[2], k.shape[2]))
        return original(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    _logits(model, images(model))
    tokens = model.num_prefix_tokens + 4
    queries = tokens + 4 if mode == "shallow" else tokens
    assert rows == [(queries, tokens + 4)] * 2 + [(1, tokens + 4)]


@pytest.mark.parametrize("backbone", OF_EACH_FAMILY)
def test_half_precision_gives_the_same_function(
    build: Any, images: Any, backbone: str, execution: str
) -> None:
    model = build(backbone, mode="deep", execution=execution)
    expected = _logits(model, images(model))
    with torch.autocast("cpu", torch.bfloat16):
        logits = _logits(model, images(model)).float()
    assert (logits - expected).abs().max() <= 0.1 * expected.abs().max()


# Poolings that timm's class knows; each changes which rows the last block must compute.
@pytest.mark.parametrize(
    ("backbone", "pool"),
    [
        *(("class_token", pool) for pool in ("token", "avg", "map", "max", "avgmax")),
        *(("dinov3", pool) for pool in ("token", "avg", "map", "max", "avgmax")),
        *(("beit", pool) for pool in ("token", "avg")),
    ],
)
def test_every_pooling_is_the_same_function_in_both_executions(
    build: Any, plain: Any, images: Any, backbone: str, mode: str, pool: str
) -> None:
    model = build(backbone, mode=mode, global_pool=pool)
    prefix = _logits(model, images(model))
    model.execution = "tokens"
    tokens = _logits(model, images(model))
    assert (prefix - tokens).abs().max() <= 1e-5 * tokens.abs().max()
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
    own = plain(model, backbone, global_pool=pool)
    assert torch.equal(_logits(model, images(model)), _logits(own, images(model)))


@pytest.mark.parametrize("backbone", ["class_token", "dinov3", "eva02", "beit"])
@pytest.mark.parametrize("size", [{"patch_size": 8}, {"patch_size": (8, 16), "img_size": (32, 64)}])
def test_other_sizes_of_images_and_patches_are_taken(
    build: Any, plain: Any, images: Any, backbone: str, size: dict[str, Any]
) -> None:
    size = {"img_size": 32, **size}
    model = build(backbone, mode="deep", **size)
    prefix = _logits(model, images(model))
    model.execution = "tokens"
    tokens = _logits(model, images(model))
    assert (prefix - tokens).abs().max() <= 1e-5 * tokens.abs().max()
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
    own = plain(model, backbone, **size)
    assert torch.equal(_logits(model, images(model)), _logits(own, images(model)))


@pytest.mark.parametrize("backbone", ["class_token", "registers_and_layer_scale", "dinov3"])
@pytest.mark.parametrize("pad", [False, True])
def test_images_may_vary_in_size_where_timm_lets_them(
    build: Any, plain: Any, backbone: str, mode: str, pad: bool
) -> None:
    options = {"dynamic_img_size": True, "dynamic_img_pad": pad}
    model = build(backbone, mode=mode, **options)
    own = plain(model, backbone, **options)
    height, width = (2 * side + pad for side in model.patch_embed.img_size)
    batch = torch.randn(2, 3, height, width)
    model.execution = "prefix"
    prefix = _logits(model, batch)
    model.execution = "tokens"
    tokens = _logits(model, batch)
    assert (prefix - tokens).abs().max() <= 1e-5 * tokens.abs().max()
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
    _assert_timms(_logits(model, batch), _logits(own, batch), backbone)


def test_a_size_between_patches_is_taken_with_padding_only() -> None:
    options: dict[str, Any] = {"depth": 1, "pretrained": False, "dynamic_img_size": True}
    with pytest.raises(UsageError, match=r"image size 40 .* take 32 or 48"):
        create_model("vit_tiny_patch16_224", 5, 4, img_size=40, **options)
    options["dynamic_img_pad"] = True
    model = create_model("vit_tiny_patch16_224", 5, 4, img_size=40, **options)
    assert model(torch.zeros(1, 3, 40, 40)).shape == (1, 5)


def test_beit_refuses_images_of_varying_size() -> None:
    with pytest.raises(UsageError, match=r"beit_base_patch16_224.*dynamic_img_size"):
        create_model("beit_base_patch16_224", 5, 4, pretrained=False, dynamic_img_size=True)
