"""Prompts as keys and values only ("prefix") are the same function as prompts as tokens."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.backbones import (
    KEEP,
    MODES,
    WAYS,
    assert_close,
    build,
    images,
    logits,
    masked,
    without_prompts,
)

# Kept prompts of each block; Shallow has the first row only.
MASKS = {
    "all_kept": [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]],
    "equal": [[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0]],
    "ragged": [[0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]],
    "a_block_with_none": KEEP.tolist(),
    "last_block_with_none": [[1, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
}
COMMON_MASKS = ["all_kept", "last_block_with_none"]


def _results(model: Any, execution: str, gated: bool) -> dict[str, Tensor]:
    """Return logits, and gradients in prompts, head and, with a random gate, the gate."""
    model.execution = execution
    model.zero_grad()
    batch = images(model)
    shape = (len(batch), *model.prompts.keep.shape)  # every image has other gates
    gate = torch.randn(shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
    torch.manual_seed(4)
    if gated:
        with model.prompts.gated(gate):
            y = model(batch)
    else:
        y = model(batch)
    F.cross_entropy(y, torch.arange(len(batch))).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {"logits": y.detach(), **gradients, **({"gate": gate.grad} if gated else {})}


@pytest.mark.parametrize(
    "mask",
    [pytest.param(m, marks=() if m in COMMON_MASKS else pytest.mark.slow) for m in MASKS],
)
def test_prefix_equals_tokens(backbone: str, mode: str, mask: str) -> None:
    model = build(backbone, mode=mode, prompt_dropout=0.3, drop_rate=0.2)
    masked(model, torch.tensor(MASKS[mask], dtype=torch.bool))
    for training, gated in ((False, True), (True, False)):
        model.train(training)
        prefix, tokens = (_results(model, form, gated) for form in ("prefix", "tokens"))
        assert prefix.keys() == tokens.keys()
        for name, expected in tokens.items():
            assert_close(prefix[name], expected, name, tolerance=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_prompts_and_gate_show_in_every_backbone(backbone: str, mode: str) -> None:
    """Without this, the comparison above might compare nothing."""
    model = build(backbone, mode=mode, prompt_dropout=0.3).train()
    results = _results(model, "prefix", gated=True)
    assert (results["gate"].abs().amax((0, 2)) > 1e-4).all()
    for name, values in results.items():
        if name.startswith("prompts."):
            assert (values.abs().amax((1, 2)) > 1e-4).all()
    whole = logits(model.eval())
    changed = logits(without_prompts(model)) - whole
    assert changed.abs().max() > 1e-2 * whole.std()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backbone", ["class_token", "dinov3", "beit_shared_bias", "swin_pooled"])
def test_checkpointed_gradients_are_the_same(backbone: str, mode: str) -> None:
    model = build(backbone, mode=mode, prompt_dropout=0.3).train()
    expected = _results(model, "prefix", gated=False)
    model.set_grad_checkpointing(True)
    for name, found in _results(model, "prefix", gated=False).items():
        assert_close(found, expected[name], name)


@pytest.mark.parametrize(("mode", "execution"), WAYS)
def test_predictions_do_not_depend_on_the_batch(backbone: str, mode: str, execution: str) -> None:
    model = build(backbone, mode=mode, execution=execution)
    batch = images(model)
    together = logits(model, batch)
    assert_close(together, torch.cat([logits(model, image[None]) for image in batch]))
    # 500 times what the comparison allows. Not more: in a pooled Swin every image shares prompts,
    # which are a fifth of the mean, and the logits of two images differ by 0.7 % only.
    assert (together[0] - together[1]).abs().max() > 5e-3 * together.abs().max()


@pytest.mark.parametrize(("mode", "execution"), WAYS)
def test_attention_maps_are_what_attention_does(backbone: str, mode: str, execution: str) -> None:
    model = build(backbone, mode=mode, execution=execution)
    seen = []

    def record(attention: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append(attention)
        joint = attention.project(*args, **kwargs).joined()
        weights = attention.attention_map(*args, **kwargs)
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        mixed = weights.view(*joint.q.shape[:-1], -1) @ joint.v  # b w h r c
        mixed = mixed.transpose(2, 3).flatten(3)
        if isinstance(output, tuple):  # of patches and prompts
            output, mixed = output[0], mixed[:, :, : args[0].shape[2]]
        else:
            mixed = mixed.squeeze(1)
        assert_close(attention.proj(attention.optional("norm", mixed)), output)

    for block in model.blocks:
        block.attn.register_forward_hook(record, with_kwargs=True)
    logits(model)
    assert len(seen) == len(model.blocks)


def test_prompted_parts_take_no_attention_mask() -> None:
    model, mask = build(), torch.zeros(5, 5)
    with pytest.raises(NotImplementedError, match="attention mask"):
        model(images(model), attn_mask=mask)
    with pytest.raises(NotImplementedError, match="attention mask"):
        model.blocks[0].attn(torch.zeros(1, 5, 48), attn_mask=mask)
