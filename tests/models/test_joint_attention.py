"""Attending to tokens and prompts apart is the same as attending to them joined."""

import itertools
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.models.joint_attention import JointAttention

IMAGES, WINDOWS, HEADS, ROWS, TOKENS, PROMPTS, WIDTH = 3, 4, 2, 5, 7, 6, 8
GATES = [None, 1, IMAGES]


def _case(
    windows: int = 1,
    groups: int = 1,
    bias: tuple[int, int] | None = None,
    gates: int | None = None,
    images: int = IMAGES,
    weights: int | None = None,
) -> Any:  # a JointAttention whose optional parts are known to be there
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return JointAttention(
        draw(images, windows, HEADS, ROWS, WIDTH).requires_grad_(),
        draw(images, windows, HEADS, TOKENS, WIDTH).requires_grad_(),
        draw(images, windows, HEADS, TOKENS, WIDTH).requires_grad_(),
        draw(groups, HEADS, PROMPTS, WIDTH).requires_grad_(),
        draw(groups, HEADS, PROMPTS, WIDTH).requires_grad_(),
        None if bias is None else draw(*bias, HEADS, ROWS, TOKENS),
        None if weights is None else draw(1, weights, PROMPTS),
        None if gates is None else draw(gates, PROMPTS).requires_grad_(),
    )


def _parts(case: JointAttention) -> dict[str, Tensor]:
    parts = {field.name: getattr(case, field.name) for field in fields(case)}
    return {name: part for name, part in parts.items() if part is not None}


def _results(case: JointAttention, joined: bool) -> dict[str, Tensor]:
    """Return the output, and the gradient of a random weighting of it in all that has one."""
    y = (case.joined() if joined else case).attend()
    weighting = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    parts = {name: part for name, part in _parts(case).items() if part.requires_grad}
    gradients = torch.autograd.grad((y * weighting).sum(), list(parts.values()))
    return {"y": y.detach(), **dict(zip(parts, gradients, strict=True))}


def _assert_same(case: JointAttention, tolerance: float = 1e-12) -> None:
    apart, joined = _results(case, joined=False), _results(case, joined=True)
    assert apart.keys() == joined.keys()
    for name, expected in joined.items():
        error = (apart[name] - expected).abs().max()
        assert error <= tolerance * expected.abs().max(), name


@pytest.mark.parametrize(
    ("windows", "groups", "bias", "gates"),
    [
        *itertools.product([1], [1, IMAGES], [None, (1, 1), (IMAGES, 1)], GATES),
        *itertools.product(
            [WINDOWS], [1, IMAGES], [None, (1, 1), (1, WINDOWS), (IMAGES, 1)], GATES
        ),
    ],
)
def test_apart_equals_joined(
    windows: int, groups: int, bias: tuple[int, int] | None, gates: int | None
) -> None:
    _assert_same(_case(windows, groups, bias, gates))


@pytest.mark.parametrize("gates", [None, 1])
@pytest.mark.parametrize("weights", [1, HEADS])
@pytest.mark.parametrize(("windows", "groups"), [(1, 1), (1, IMAGES), (WINDOWS, 1)])
def test_apart_equals_joined_with_log_weights(
    windows: int, groups: int, weights: int, gates: int | None
) -> None:
    case = _case(windows, groups, (1, 1), gates, weights=weights)
    _assert_same(case)
    without = _results(replace(case, log_weight=None), joined=False)["y"]
    assert not torch.allclose(without, _results(case, joined=False)["y"])


def test_a_log_weight_of_log_n_is_n_equal_prompts() -> None:
    case = _case(WINDOWS, 1)
    copies = replace(
        case,
        prompt_k=torch.cat([case.prompt_k, case.prompt_k[:, :, :1], case.prompt_k[:, :, :1]], 2),
        prompt_v=torch.cat([case.prompt_v, case.prompt_v[:, :, :1], case.prompt_v[:, :, :1]], 2),
    )
    weight = torch.zeros(1, 1, PROMPTS, dtype=torch.float64)
    weight[0, 0, 0] = math.log(3)
    merged = replace(case, log_weight=weight)
    torch.testing.assert_close(merged.attend(), copies.attend(), rtol=1e-12, atol=1e-12)


def test_the_forms_really_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the comparison above might compare one form with itself."""
    calls = []
    original = torch.nn.functional.scaled_dot_product_attention

    def record(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args[1].shape[2])
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    _case().attend()
    assert calls == []
    _case().joined().attend()
    with torch.no_grad():
        _case().attend()
    assert calls == [TOKENS + PROMPTS] * 2


@pytest.mark.parametrize("gone", [slice(None), slice(0, 2)])
def test_a_gate_of_minus_infinity_removes_prompts(gone: slice) -> None:
    case = _case(gates=1)
    with torch.no_grad():
        case.log_gate.zero_()
        case.log_gate[:, gone] = float("-inf")
    results = _results(case, joined=False)
    rest = [i for i in range(PROMPTS) if i not in range(PROMPTS)[gone]]
    without = replace(
        case, prompt_k=case.prompt_k[:, :, rest], prompt_v=case.prompt_v[:, :, rest], log_gate=None
    )
    torch.testing.assert_close(results["y"], without.attend())
    assert torch.equal(results["prompt_v"][:, :, gone], torch.zeros_like(case.prompt_v[:, :, gone]))
    assert all(gradient.isfinite().all() for gradient in results.values())


@pytest.mark.parametrize("gates", [None, 1])
def test_large_scores_overflow_in_neither_part(gates: int | None) -> None:
    for scale_tokens, scale_prompts in ((40.0, 1.0), (1.0, 40.0), (40.0, 40.0)):
        case = _case(gates=gates)
        with torch.no_grad():
            case.k.mul_(scale_tokens)
            case.prompt_k.mul_(scale_prompts)
        _assert_same(case, tolerance=1e-9)


def _cast(case: JointAttention, dtype: torch.dtype) -> JointAttention:
    return replace(
        case,
        **{
            name: part.detach().to(dtype).requires_grad_(part.requires_grad)
            for name, part in _parts(case).items()
        },
    )


@pytest.mark.parametrize("gates", [None, IMAGES])
@pytest.mark.parametrize("windows", [1, WINDOWS])
def test_half_precision_loses_no_more_apart_than_joined(windows: int, gates: int | None) -> None:
    exact = _case(windows, bias=(1, windows), gates=gates)
    half, wide = _cast(exact, torch.bfloat16), _cast(_cast(exact, torch.bfloat16), torch.float64)
    reference = _results(wide, joined=True)
    apart, joined = _results(half, joined=False), _results(half, joined=True)
    for name, expected in reference.items():
        scale = expected.abs().max()
        lost = (apart[name].double() - expected).abs().max() / scale
        floor = (joined[name].double() - expected).abs().max() / scale
        assert lost <= 2 * floor + 2**-7, name  # each part is rounded before they are joined


@pytest.mark.parametrize("gates", [None, 1])
def test_no_gradient_is_computed_for_what_needs_none(gates: int | None) -> None:
    """In the first block the tokens have none; while the gate is scored, the prompts."""
    case = _case(gates=gates)
    frozen = replace(case, q=case.q.detach(), k=case.k.detach(), v=case.v.detach())
    everything, some = _results(case, joined=False), _results(frozen, joined=False)
    assert some.keys() == everything.keys() - {"q", "k", "v"}
    for name, gradient in some.items():
        torch.testing.assert_close(gradient, everything[name])
    if gates:
        scored = replace(case, prompt_k=case.prompt_k.detach(), prompt_v=case.prompt_v.detach())
        torch.testing.assert_close(
            _results(scored, joined=False)["log_gate"], everything["log_gate"]
        )


def test_weights_are_what_attends() -> None:
    case = _case(WINDOWS, bias=(1, WINDOWS), gates=IMAGES)
    values = case.joined().v
    torch.testing.assert_close(case.weights() @ values, case.attend())
    assert case.weights().shape[-1] == TOKENS + PROMPTS


def test_prompts_are_held_once_for_all_images() -> None:
    """What backward keeps grows with the images by queries, keys, values and output alone."""

    def held(images: int) -> int:
        case = _case(images=images)
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = case.attend()
        del y
        return sum(kept.values())

    per_image = held(3) - held(2)
    numbers = HEADS * (2 * ROWS + 2 * TOKENS) * WIDTH + HEADS * ROWS  # and the log-sum-exp
    assert per_image == 8 * numbers
