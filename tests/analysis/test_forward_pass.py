from typing import Any

import torch
from torch import Tensor

from pcvpt.analysis.forward_pass import attention_to_prompts, features_and_logits, reads_class_token

CLASS_TOKEN = {"class_token", "eva", "beit", "registers"}


def test_attention_to_prompts_is_that_of_the_whole_matrices_in_both_executions(
    build: Any, images: Any, mask_some: Any, seen_in: Any, family: str, mode: str
) -> None:
    model = build(family, mode=mode)
    keep, x, token = mask_some(model), images(model), family in CLASS_TOKEN
    assert reads_class_token(model) == token
    received = attention_to_prompts(model, x)
    assert received.shape == (len(model.blocks), 4)
    for one in seen_in(model, x):
        kept = keep[one.layer]
        assert torch.equal(~received[one.block].isnan(), kept)
        first = 0 if token else getattr(model, "num_prefix_tokens", 0)
        last = one.weights.shape[3] - one.prompts
        rows = one.weights[..., first : 1 if token else last, last:]
        expected = rows.flatten(0, 3).mean(0).float()
        torch.testing.assert_close(received[one.block][kept], expected, rtol=1e-4, atol=1e-7)
    model.execution = "tokens"
    tokens = attention_to_prompts(model, x)
    torch.testing.assert_close(tokens, received, rtol=1e-3, atol=1e-6, equal_nan=True)


def test_a_linear_probe_gives_no_attention_to_prompts(build: Any, images: Any) -> None:
    model = build(num_prompts=0, mode="linear")
    assert attention_to_prompts(model, images(model)).shape == (3, 0)


def test_features_are_what_the_head_makes_logits_of(build: Any, images: Any, family: str) -> None:
    model = build(family)
    x: Tensor = images(model)
    with torch.no_grad():
        features, logits = features_and_logits(model, x)
        torch.testing.assert_close(model.get_classifier()(features), logits)
        torch.testing.assert_close(logits, model(x))
    assert not model.get_classifier()._forward_pre_hooks
