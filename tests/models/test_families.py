"""Every family: what stays timm's, what trains, scores, sizes, poolings and half precision."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from miniature.backbones import (
    BACKBONES,
    MODES,
    WAYS,
    assert_close,
    build,
    images,
    logits,
    masked,
    plain,
    without_prompts,
)
from pcvpt.condensation import Method, score_prompts

POOLS = ("token", "avg", "map", "max", "avgmax")
SIZED = ("class_token", "dinov3", "eva02", "beit")
OF_EACH_FAMILY = ["class_token", "eva02", "dinov3", "beit", "beit_shared_bias"]


def _assert_timms(found: Tensor, expected: Tensor, backbone: str) -> None:
    # timm gives BEiT's attention a bias that fused attention does not take; Swin, see its block.
    if backbone == "beit_shared_bias" or backbone.startswith("swin"):
        assert_close(found, expected)
    else:
        assert torch.equal(found, expected)


def test_without_prompts_the_model_is_timms(backbone: str) -> None:
    model = build(backbone, mode="linear", execution="tokens")
    own, batch = plain(model, backbone), images(model)
    _assert_timms(logits(model, batch), logits(own, batch), backbone)
    with torch.no_grad():
        _assert_timms(model.forward_features(batch), own.forward_features(batch), backbone)
    model.execution = "prefix"
    assert_close(logits(model, batch), logits(own, batch))
    if backbone.startswith("swin"):
        assert torch.equal(logits(model, batch), logits(own, batch))


def test_with_every_prompt_masked_the_model_is_timms(backbone: str, mode: str) -> None:
    model = build(backbone, mode=mode, execution="tokens")
    own, batch = plain(model, backbone), images(model)
    assert not torch.equal(logits(model, batch), logits(own, batch))
    _assert_timms(logits(without_prompts(model), batch), logits(own, batch), backbone)


@pytest.mark.parametrize("mode", [*MODES, "linear"])
def test_only_prompts_and_head_train(backbone: str, mode: str) -> None:
    model = build(backbone, mode=mode)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    head = "head.fc" if backbone.startswith("swin") else "head"
    # A linear probe's empty prompts are not trained: distributed training would wait for them.
    prompts = [n for n, _ in model.prompts.named_parameters() if mode != "linear"]
    assert trained == {f"{head}.weight", f"{head}.bias"} | {f"prompts.{n}" for n in prompts}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()(images(model)).square().sum().backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p.detach(), before[n])}
    assert moved == trained


@pytest.mark.parametrize("backbone", ["class_token", "dinov3", "eva_post_norm", "beit", "swin"])
def test_the_backbone_stays_in_evaluation_mode(backbone: str, mode: str, execution: str) -> None:
    model = build(backbone, mode=mode, execution=execution)
    for name, part in model.named_modules():
        if isinstance(part, nn.Dropout) and not name.startswith("head"):
            part.p = 0.5  # of timm's own models it is 0
    expected = logits(model)
    outer = nn.Sequential(model)  # as a LightningModule holds it
    for _ in range(2):
        assert torch.equal(logits(outer.train()[0]), expected)
        training = {n.split(".")[0] for n, part in model.named_modules() if part.training and n}
        assert training - {"head_drop"} == {"prompts", "head"}
        outer.eval()
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("mode", "execution"), WAYS)
@pytest.mark.parametrize("option", ["prompt_dropout", "drop_rate"])
def test_dropout_of_prompts_and_head_follows_the_mode(
    mode: str, execution: str, option: str
) -> None:
    model = build(mode=mode, execution=execution, **{option: 0.5})
    quiet = logits(model)
    assert not torch.equal(logits(model.train()), logits(model))
    assert torch.equal(logits(model.eval()), quiet)


@pytest.mark.parametrize("backbone", ["class_token", "registers_and_layer_scale", "no_qkv_bias"])
def test_of_the_last_blocks_tokens_neither_keys_nor_values_are_computed(
    monkeypatch: pytest.MonkeyPatch, backbone: str, mode: str
) -> None:
    model = build(backbone, mode=mode)
    last, seen = model.blocks[-1].attn, []
    original = type(last).project_parts

    def record(attention: Any, x: Tensor, first: int, final: int) -> Any:
        if attention is last:
            seen.append((x.shape[1], "qkv"[first:final]))
        return original(attention, x, first, final)

    monkeypatch.setattr(type(last), "project_parts", record)
    logits(model)
    assert seen == [(1, "q"), *([(4, "kv")] if mode == "deep" else [])]


@pytest.mark.parametrize("backbone", [*OF_EACH_FAMILY, "swin"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", get_args(Method))
def test_prompts_of_every_family_are_scored(backbone: str, mode: str, method: Any) -> None:
    model = masked(build(backbone, mode=mode))
    scores = torch.stack(score_prompts(model, [(images(model), torch.arange(3))], method))
    assert torch.equal(scores.isfinite(), model.prompts.keep)
    assert (scores != 0).all()


@pytest.mark.parametrize("backbone", OF_EACH_FAMILY)
def test_half_precision_gives_the_same_function(backbone: str, execution: str) -> None:
    model = build(backbone, mode="deep", execution=execution)
    expected = logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(logits(model).float(), expected, tolerance=0.1)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        # Poolings that timm's class knows; each changes which rows the last block must compute.
        *(("class_token", {"global_pool": pool}) for pool in POOLS),
        *(("dinov3", {"global_pool": pool}) for pool in POOLS),
        *(("beit", {"global_pool": pool}) for pool in ("token", "avg")),
        # Other sizes of images and patches.
        *((backbone, {"img_size": 32, "patch_size": 8}) for backbone in SIZED),
        *((backbone, {"img_size": (32, 64), "patch_size": (8, 16)}) for backbone in SIZED),
        # Images of varying size, where timm lets them.
        *(
            (backbone, {"dynamic_img_size": True, "dynamic_img_pad": pad})
            for backbone in ("class_token", "registers_and_layer_scale", "dinov3")
            for pad in (False, True)
        ),
        *((backbone, {}) for backbone in BACKBONES if backbone == "grouped_query"),  # newer timm
        ("class_token", {"img_size": 40, "dynamic_img_size": True, "dynamic_img_pad": True}),
    ],
)
def test_options_of_timm_give_one_function_in_both_executions(
    backbone: str, mode: str, options: dict[str, Any]
) -> None:
    model = build(backbone, mode=mode, **options)
    scale, more = (2 if "dynamic_img_size" in options else 1), options.get("dynamic_img_pad", 0)
    batch = torch.randn(2, 3, *(scale * side + more for side in model.patch_embed.img_size))
    prefix = logits(model, batch)
    model.execution = "tokens"
    assert_close(prefix, logits(model, batch))
    own = plain(model, backbone, **options)
    _assert_timms(logits(without_prompts(model), batch), logits(own, batch), backbone)


def test_another_pooling_makes_the_last_block_compute_its_rows() -> None:
    model = build(fc_norm=False)
    model.reset_classifier(3, "avg")
    prefix = logits(model)
    model.execution = "tokens"
    assert_close(prefix, logits(model))
    assert prefix.isfinite().all()
