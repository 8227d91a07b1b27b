"""What is prepared once instead of in each block or step changes no result."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from miniature.backbones import COMMON, WAYS, assert_close, build, images, logits, masked
from pcvpt.models import transformer
from pcvpt.models.frozen_weights import FrozenWeights
from pcvpt.models.windows import Windows

every_way = pytest.mark.parametrize(("mode", "execution"), WAYS)
some = pytest.mark.parametrize("backbone", COMMON)
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def _step(model: Any, autocast: bool, context: Any = None) -> list[Tensor]:
    """Return logits and gradients of one step of training."""
    device = model.prompts.device.type
    model.train().zero_grad()
    torch.manual_seed(0)
    with torch.autocast(device, torch.bfloat16, enabled=autocast), context or nullcontext():
        found = model(images(model).to(device))
    found.float().square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [found.detach(), *gradients]


@devices
@every_way
@some
def test_frozen_weights_that_are_cast_once_give_the_same_bits(
    backbone: str, mode: str, execution: str, device: str
) -> None:
    model = masked(build(backbone, mode=mode, execution=execution)).to(device)
    before, weights = dict(model.named_parameters()), FrozenWeights()
    expected = _step(model, autocast=True)
    for _ in range(2):
        found = _step(model, True, weights.cast(model))
        assert all(map(torch.equal, found, expected))
    assert all(before[name] is own for name, own in model.named_parameters())
    with weights.cast(model):  # without autocast
        assert all(own.dtype == torch.float32 for own in model.parameters())


def test_a_weight_is_cast_again_after_it_has_changed() -> None:
    model, weights = build(), FrozenWeights()

    def cast() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), weights.cast(model), torch.no_grad():
            assert model.blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
            return model(images(model))

    first, state = cast(), copy.deepcopy(model.state_dict())
    state["blocks.0.mlp.fc1.weight"].neg_()
    model.load_state_dict(state)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = model(images(model))
    assert torch.equal(cast(), expected)
    assert not torch.equal(first, expected)
    model.double().float()
    assert torch.equal(cast(), expected)
    assert all(value.dtype != torch.bfloat16 for value in model.state_dict().values())


def test_weights_that_are_trained_are_left_to_autocast_and_errors_leave_the_weights() -> None:
    model, weights = build(), FrozenWeights()
    model.blocks[1].requires_grad_(True)
    rounded: set[str] = set()

    def fail() -> None:
        with torch.autocast("cpu", torch.bfloat16), weights.cast(model):
            found = model.named_parameters()
            rounded.update(name for name, own in found if own.dtype == torch.bfloat16)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "blocks.0.attn.proj.weight" in rounded
    assert not any(name.startswith(("blocks.1.", "head.", "prompts.")) for name in rounded)
    assert not any("norm" in name for name in rounded)
    assert all(own.dtype == torch.float32 for own in model.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("keep_all", [True, False])
@every_way
@some
def test_prompts_that_are_prepared_together_are_the_same(
    backbone: str,
    mode: str,
    execution: str,
    keep_all: bool,
    dropout: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(backbone, mode=mode, execution=execution, prompt_dropout=dropout)
    model = model if keep_all else masked(model)
    _step(model, autocast=True)
    with torch.no_grad():
        model.blocks[0].norm1.weight.neg_()  # after which nothing that was kept is right
    together = [_step(model, autocast) for autocast in (False, True)]
    assert not model.prompts.taken
    assert not model.prompts.projected
    monkeypatch.setattr(transformer, "is_trained_at_once", lambda _: False)
    apart = [_step(model, autocast) for autocast in (False, True)]
    assert all(map(torch.equal, together[0], apart[0]))  # bit for bit in float32
    if not dropout:  # whose draws are others under autocast
        for found, expected in zip(together[1], apart[1], strict=True):
            assert_close(found, expected, tolerance=0.03)


@pytest.mark.parametrize("shift", [(0, 0), (2, 1)])
@pytest.mark.parametrize("size", [(8, 12), (7, 12)])
def test_windows_are_cut_and_put_back_in_order(
    size: tuple[int, int], shift: tuple[int, int]
) -> None:
    windows = Windows(size, (4, 4), shift, torch.device("cpu"))
    x = torch.randn(2, *size, 3, requires_grad=True)
    cut = windows.cut(x)
    padded = nn.functional.pad(
        x.roll((-shift[0], -shift[1]), (1, 2)), (0, 0, 0, 0, 0, -size[0] % 4)
    )
    first, across = padded[:, :4, 4:8].flatten(1, 2), 3
    assert cut.shape == (2, 2 * across, 16, 3)
    assert torch.equal(cut[:, 1], first)
    assert torch.equal(cut[:, across], padded[:, 4:8, :4].flatten(1, 2))
    whole = windows.add(torch.zeros_like(x), cut)
    assert torch.equal(whole, x)
    weighting = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((whole * weighting).sum(), x)
    assert torch.equal(gradient, weighting)


@pytest.mark.parametrize("backbone", ["swin", "swin_any_input_size"])
def test_the_bias_of_positions_follows_the_weights(backbone: str) -> None:
    model, fresh = (build(backbone) for _ in range(2))
    before, state = logits(model), copy.deepcopy(model.state_dict())
    for name, value in state.items():
        if name.endswith("relative_position_bias_table"):
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    for each in (model, fresh):  # one of them has computed its bias already
        each.load_state_dict(state)
    changed = logits(model)
    assert not torch.equal(changed, before)
    assert torch.equal(changed, logits(fresh))
    batch = images(model).double()
    assert_close(logits(model.double(), batch).float(), changed)
    for steps in (1, 2):  # what inference has kept serves training
        assert _step(model.float(), autocast=steps == 1)[1].any()
