"""Swin with prompts: windows, stages of several widths, pooling and scores."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.backbones import CLASSES, PROMPTS, assert_close, build, images, logits
from pcvpt.condensation import score_prompts
from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.models.attention_hooks import attention_pre_hooks
from pcvpt.models.swin import PromptedSwinBlock, PromptedSwinTransformer
from pcvpt.models.window_attention import PromptedWindowAttention

LABELS = torch.tensor([0, 3, 1])


def test_prompts_are_computed_once_for_all_windows(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("swin", mode=mode)
    original, seen = PromptedWindowAttention.project_parts, []

    def record(attention: Any, x: Tensor, first: int, last: int) -> Any:
        shape = x.shape if x.ndim == 4 else x[:, None].shape  # prompts have no windows
        seen.append((*shape[:3], "qkv"[first:last]))  # images, windows, tokens
        return original(attention, x, first, last)

    monkeypatch.setattr(PromptedWindowAttention, "project_parts", record)
    logits(model)
    patches = [(3, 4, 16, "qkv"), (3, 4, 16, "qkv"), (3, 1, 16, "qkv")]
    prompts = [[(1, 1, PROMPTS, "kv")]] * 3
    if mode == "shallow":  # the output at prompts depends on the image; the last is not read
        prompts = [[(n, 1, PROMPTS, "q"), (n, 1, PROMPTS, "kv")] for n in (1, 3)]
        prompts.append([(3, 1, PROMPTS, "kv")])
    assert seen == [c for own, rest in zip(patches, prompts, strict=True) for c in (own, *rest)]
    model.execution = "tokens"
    seen.clear()
    logits(model)
    assert seen == [(b, w, n + PROMPTS, parts) for b, w, n, parts in patches]


def test_dropout_is_shared_by_a_batch_in_deep_and_drawn_for_each_image_in_shallow(
    mode: str, execution: str
) -> None:
    model = build("swin", mode=mode, execution=execution, prompt_dropout=0.5).train()
    twice = images(model, 1).expand(2, -1, -1, -1)
    first = logits(model, twice)
    assert (torch.allclose(first[0], first[1], rtol=1e-4, atol=1e-5)) == (mode == "deep")
    assert not torch.equal(logits(model, twice), first)


def test_a_stage_without_prompts_still_has_a_gradient(execution: str) -> None:
    """Distributed training waits for the gradient of every trained parameter."""
    model = build("swin", execution=execution)
    model.prompts.apply_mask(list(torch.tensor([[False] * 4] * 2 + [[True] * 4])))
    model(images(model)).sum().backward()
    first, second = (values.grad for _, values in model.prompts.runs())
    assert torch.equal(first, torch.zeros_like(first))
    assert second.abs().max() > 0


def test_a_prompt_of_swin_b_has_12032_parameters() -> None:
    with torch.device("meta"):
        bank = create_model("swin_base_patch4_window7_224", 2, 2, pretrained=False).prompts
    shapes = [(2, 2, 128), (2, 2, 256), (18, 2, 512), (2, 2, 1024)]
    assert [tuple(values.shape) for values in bank.parameters()] == shapes
    assert sum(values.numel() for values in bank.parameters()) == 2 * 12_032
    assert bank.stages == [0] * 2 + [1] * 2 + [2] * 18 + [3] * 2


def test_prompts_of_all_stages_start_in_the_bound_of_the_stem() -> None:
    sizes: dict[str, Any] = {"depths": (1, 1), "num_heads": (4, 8)}
    model = create_model("swin_base_patch4_window7_224", 2, 100, pretrained=False, **sizes)
    bound = math.sqrt(6 / (3 * 4 * 4 + 128))
    assert bound == pytest.approx(0.1846, abs=1e-4)
    assert [values.shape[2] for values in model.prompts.parameters()] == [128, 256]
    for values in model.prompts.parameters():
        assert 0.99 * bound < values.abs().max() <= bound


def test_a_model_in_half_precision_is_scored(mode: str, execution: str) -> None:
    model = build("swin_pooled", mode=mode, execution=execution)
    data = [(images(model), LABELS)]
    expected = torch.stack(score_prompts(model, data))
    scores = torch.stack(score_prompts(model.to(torch.bfloat16), data))
    assert (scores - expected).abs().max() <= 0.3 * expected.max()


def test_attention_is_the_mean_weight_that_a_prompt_receives(mode: str, execution: str) -> None:
    model = build("swin", mode=mode, execution=execution)
    received = []

    def record(_: int, attention: Any, args: Any, kwargs: Any) -> None:
        weights = attention.attention_map(*args, **kwargs)[..., args[0].shape[2] :]
        received.append(weights.double().mean((0, 1, 2)))

    with attention_pre_hooks(model, record):
        logits(model)
    expected = torch.stack(received)
    expected = expected if mode == "deep" else expected.mean(0, keepdim=True)
    scores = torch.stack(score_prompts(model, [(images(model), LABELS)], "attention"))
    assert (scores - expected).abs().max() <= 1e-6


def test_magnitude_and_token_scores_do_not_mix_widths() -> None:
    model = build("swin").double()
    data = (images(model).double(), LABELS)
    values = [model.prompts.layer_values(layer) for layer in range(3)]
    assert [v.shape[1] for v in values] == [12, 12, 24]
    runs = list(model.prompts.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(data[0]), data[1]), runs)
    rows = [row for run in gradients for row in run]
    magnitude = score_prompts(model, [], "magnitude")
    norm = score_prompts(model, [data], "gradient_norm")
    for layer, value in enumerate(values):
        torch.testing.assert_close(magnitude[layer], value.detach().norm(dim=1))
        expected = rows[layer].norm(dim=1) * value.detach().norm(dim=1)
        torch.testing.assert_close(norm[layer], expected)


def test_a_linear_probe_leaves_timms_blocks_as_they_are() -> None:
    model = build("swin", mode="linear")
    assert isinstance(model, PromptedSwinTransformer)
    assert not any(isinstance(module, PromptedSwinBlock) for module in model.modules())


def test_features_of_the_patches_are_the_same_with_either_pooling(mode: str) -> None:
    model = build("swin", mode=mode)
    batch = images(model)
    features = model.forward_features(batch)
    assert features.shape == (3, 4, 4, 24)
    assert_close(model.forward_head(features), model(batch))
    model.pool_prompts = True
    assert_close(model.forward_features(batch), features)
    assert not torch.allclose(model(batch), model.forward_head(features), atol=1e-3)
    model.pool_prompts = False
    assert_close(model(batch), model.forward_head(features))


def test_pooling_of_prompts_is_refused_where_there_is_none() -> None:
    model = build("swin_pooled")
    with pytest.raises(UsageError, match="global_pool='max'"):
        model.reset_classifier(CLASSES, "max")
    with pytest.raises(UsageError, match="mode='linear'"):
        build("swin", mode="linear").pool_prompts = True
