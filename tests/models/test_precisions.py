"""Every way to compute prompts, in every precision and in mixtures of them."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from miniature.backbones import WAYS, assert_close, build, images, logits, masked
from pcvpt.analysis.forward_pass import attention_to_prompts, features_and_logits
from pcvpt.condensation import merge_prompts
from pcvpt.models import PromptedTransformer

TOLERANCES = {torch.float64: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
SOME = ["class_token", "dinov3", "eva_post_norm", "swin", "swin_pooled"]
every_way = pytest.mark.parametrize(("mode", "execution"), WAYS)
some = pytest.mark.parametrize("backbone", SOME)


def _build(backbone: str, mode: str, execution: str) -> Any:
    return masked(build(backbone, mode=mode, execution=execution))


def _train(model: PromptedTransformer) -> None:
    """Compute gradients of the prompts, and check their precision."""
    model.train()
    batch = images(model).to(next(model.patch_embed.parameters()))
    F.cross_entropy(model(batch).float(), torch.arange(3)).backward()
    for values in model.prompts.parameters():
        assert values.grad is not None
        assert values.grad.dtype == values.dtype
        assert bool(values.grad.isfinite().all())
        assert values.grad.abs().max() > 0
    model.eval()


@pytest.mark.parametrize("dtype", TOLERANCES)
@every_way
@some
def test_every_precision_trains_and_can_be_observed(
    backbone: str, mode: str, execution: str, dtype: torch.dtype
) -> None:
    model = _build(backbone, mode, execution)
    batch, expected = images(model), logits(model)
    attention = attention_to_prompts(model, batch)
    model.to(dtype)
    _train(model)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # as Lightning does around each step
    try:
        found = features_and_logits(model, batch.to(dtype)).logits
        observed = attention_to_prompts(model, batch.to(dtype))
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == dtype
    assert observed.dtype == torch.float32
    assert_close(found.float(), expected, "logits", TOLERANCES[dtype])
    assert_close(observed.nan_to_num(), attention.nan_to_num(), "attention", TOLERANCES[dtype])
    frozen = copy.deepcopy(model).freeze_prompts()
    assert_close(logits(frozen, batch.to(dtype)).float(), expected, "frozen", TOLERANCES[dtype])


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@every_way
@some
def test_prompts_may_have_another_precision_than_the_backbone(
    backbone: str, mode: str, execution: str, dtype: torch.dtype, merged: bool
) -> None:
    model = _build(backbone, mode, execution)
    model.prompts.to(dtype)
    batch = images(model)
    if merged:
        model.prompts.apply_merge(merge_prompts(model, [(batch,)], 0.5))
    same = copy.deepcopy(model)
    same.prompts.float()
    expected = logits(same)
    assert_close(logits(model), expected)
    with nullcontext() if merged else torch.autocast("cpu", torch.bfloat16):
        _train(model)
    assert_close(logits(model.freeze_prompts()), expected)
