"""Scores against what they claim to be, computed another way."""

import copy
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from miniature.backbones import MODES
from miniature.backbones import WAYS as COMPUTED
from pcvpt.condensation import Method, score_prompts, scoring, select_prompts
from pcvpt.errors import UsageError
from pcvpt.models import PromptedVisionTransformer, create_model

Data = tuple[Tensor, Tensor]
METHODS = get_args(Method)
SIZES = (3, 1, 2)  # of batches
KEEP = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)
# One method of each way to compute scores; the others differ in how sums are put together.
WAYS = ("gate_sample", "gradient_norm", "attention", "leave_one_out", "magnitude", "random")
every_mode = pytest.mark.parametrize("mode", MODES)
every_way_to_compute = pytest.mark.parametrize(("mode", "execution"), COMPUTED)
every_method = pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[] if m in WAYS else pytest.mark.slow) for m in METHODS]
)


def _batches(data: Data, sizes: tuple[int, ...] = SIZES) -> list[Data]:
    return list(zip(*(part.split(sizes) for part in data), strict=True))


def _scores(model: PromptedVisionTransformer, batches: Any, method: Any, **options: Any) -> Tensor:
    return torch.stack(score_prompts(model, batches, method, **options))


def _losses(model: PromptedVisionTransformer, data: Data, gate: Tensor | None = None) -> Tensor:
    """Return the loss of each image, its attention multiplied by ``gate`` (l, p)."""
    gate = torch.ones(model.prompts.keep.shape) if gate is None else gate
    with torch.no_grad(), model.prompts.gated(gate.log()[None]):
        return F.cross_entropy(model(data[0]), data[1], reduction="none")


def _gate_derivatives(model: PromptedVisionTransformer, data: Data, step: float = 1e-4) -> Tensor:
    """Return central differences (b, l, p) of each image's loss in each gate at 1."""
    model, data = copy.deepcopy(model).double(), (data[0].double(), data[1])
    shape = model.prompts.keep.shape
    derivatives = torch.zeros(len(data[1]), *shape, dtype=torch.float64)
    for layer, prompt in torch.ones(shape).nonzero().tolist():
        up, down = torch.ones(2, *shape, dtype=torch.float64)
        up[layer, prompt] += step
        down[layer, prompt] -= step
        change = _losses(model, data, up) - _losses(model, data, down)
        derivatives[:, layer, prompt] = change / (2 * step)
    return derivatives


def _assert_close(scores: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert scores.dtype == torch.float64
    assert expected.abs().max() > 0  # nothing would be compared otherwise
    assert (scores - expected).abs().max() <= tolerance * expected.abs().max()


@every_way_to_compute
@pytest.mark.parametrize("masked", [False, True])
def test_gate_scores_are_finite_differences_of_the_loss(
    build: Any, data: Data, mode: str, execution: str, masked: bool
) -> None:
    model, tolerance = build(mode=mode, execution=execution), 1e-4
    if masked:
        model, data, tolerance = model.double(), (data[0].double(), data[1]), 1e-5
        model.prompts.apply_mask(list(KEEP[: len(model.prompts.keep)]))
    keep, each = model.prompts.keep, _gate_derivatives(model, data)
    for method, expected in (
        ("gate", each.mean(0).abs()),
        ("gate_sample", each.abs().mean(0)),
        ("gate_squared", each.square().mean(0)),
        ("gate_batch", sum(part.sum(0).abs() for part in each.split(SIZES)) / len(each)),
    ):
        scores = _scores(model, _batches(data), method)
        _assert_close(scores[keep], expected[keep], tolerance)
        assert (scores[~keep] == float("-inf")).all()


def test_a_shallow_prompt_has_one_gate_in_all_blocks(build: Any, data: Data) -> None:
    """Its score is the derivative in a gate that stands in every block, not in the first alone."""
    model = build(mode="shallow", execution="tokens")
    shared = _scores(model, [data], "gate")
    log_gates = [torch.zeros(len(data[1]), 4, requires_grad=True) for _ in model.blocks]
    turn = iter(log_gates)
    model.prompts.bias = lambda layer: (None, next(turn))  # each block in turn asks for its own
    F.cross_entropy(model(data[0]), data[1]).backward()
    of_blocks = torch.stack([gate.grad.sum(0) for gate in log_gates]).double()
    _assert_close(shared[0], of_blocks.sum(0).abs())
    assert (of_blocks[1:].abs().max(1).values > 1e-5).all()


@every_way_to_compute
@pytest.mark.parametrize("masked", [False, True])
def test_leaving_one_out_is_masking_each_prompt(
    build: Any, data: Data, mode: str, execution: str, masked: bool
) -> None:
    model = build(mode=mode, execution=execution)
    if masked:
        model.prompts.apply_mask(list(KEEP[: len(model.prompts.keep)]))
    keep = model.prompts.keep.clone()
    base = _losses(model, data).mean()
    expected = torch.full(keep.shape, float("-inf"), dtype=torch.float64)
    for layer, prompt in keep.nonzero().tolist():
        without, mask = copy.deepcopy(model), keep.clone()
        mask[layer, prompt] = False
        without.prompts.apply_mask(list(mask))
        expected[layer, prompt] = _losses(without, data).mean() - base
    scores = _scores(model, _batches(data), "leave_one_out")
    _assert_close(scores[keep], expected[keep])
    assert (scores[keep] < 0).any()  # a growth, not its size
    assert masked or (scores[keep] > 0).any()  # of three prompts, all may harm


@every_mode
def test_token_scores_are_products_of_prompt_and_gradient(
    build: Any, data: Data, mode: str
) -> None:
    model = build(mode=mode).double()  # in Deep the products are what a cancellation leaves
    data, values = (data[0].double(), data[1]), model.prompts.values
    losses = [F.cross_entropy(model(x), y, reduction="sum") for x, y in _batches(data)]
    gradients = torch.stack([torch.autograd.grad(loss, values)[0] for loss in losses])
    prompts, mean = values.detach(), gradients.sum(0) / len(data[1])
    products = (prompts * gradients).sum(3) / len(data[1])
    for method, expected in (
        ("token", products.sum(0).abs()),
        ("token_batch", products.abs().sum(0)),
        ("gradient_norm", mean.norm(dim=2) * prompts.norm(dim=2)),
    ):
        _assert_close(_scores(model, _batches(data), method), expected)


@every_mode
def test_magnitude_is_the_norm_and_needs_no_data(build: Any, mode: str) -> None:
    model = build(mode=mode)
    expected = model.prompts.values.detach().double().square().sum(2).sqrt()
    torch.testing.assert_close(_scores(model, [], "magnitude"), expected)


@every_way_to_compute
def test_attention_is_the_mean_weight_that_a_prompt_receives(
    build: Any, data: Data, mode: str, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With normalised keys even a single query takes the attention that is recorded here.
    model = build(mode=mode, execution=execution, qk_norm=True)
    scores = _scores(model, _batches(data), "attention")
    received = []
    original = F.scaled_dot_product_attention

    def record(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        weights = (query @ key.mT / query.shape[3] ** 0.5).softmax(3)
        received.append(weights[..., -4:].double().mean((0, 1, 2)))
        return original(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    with torch.no_grad():
        model(data[0])
    expected = torch.stack(received)
    _assert_close(scores, expected.mean(0, keepdim=True) if mode == "shallow" else expected)


def test_random_scores_follow_the_seed_alone(build: Any) -> None:
    model = build()
    first = _scores(model, [], "random", seed=1)
    torch.manual_seed(123)
    model.prompts.values.data.zero_()
    assert torch.equal(_scores(model, [], "random", seed=1), first)
    assert not torch.equal(_scores(model, [], "random", seed=2), first)
    assert first.unique().numel() == first.numel()
    assert ((first >= 0) & (first < 1)).all()


@every_method
def test_scores_of_batches_are_put_together(build: Any, data: Data, method: str) -> None:
    """Those absolute by batch are their mean; others do not depend on how images are divided."""
    model, data = build().double(), (data[0].double(), data[1])
    scores = _scores(model, _batches(data), method)
    if method.endswith("_batch"):
        one = method.removesuffix("_batch")
        parts = [len(y) * _scores(model, [(x, y)], one) for x, y in _batches(data)]
        _assert_close(scores, torch.stack(parts).sum(0) / len(data[1]))
    else:
        _assert_close(scores, _scores(model, [data], method))


def test_the_whole_is_summed_in_the_order_of_the_batches(build: Any, data: Data) -> None:
    parts = [torch.randn(7, dtype=torch.float64) * 10**k for k in range(9)]
    batches = [(data[0][:3], torch.full((3,), number)) for number in range(9)]
    score = scoring._Score(lambda _, images, labels: parts[int(labels[0])])
    whole, even, odd = scoring._scores_from_data(build(), batches, score, None)
    assert torch.equal(whole, sum(parts[1:], parts[0]) / 27)
    torch.testing.assert_close(even * 15, torch.stack(parts[::2]).sum(0))
    torch.testing.assert_close(odd * 12, torch.stack(parts[1::2]).sum(0))


def test_all_reduce_joins_the_shares_of_processes(build: Any, data: Data) -> None:
    model = build()
    first, second = (data[0][:4], data[1][:4]), (data[0][4:], data[1][4:])
    sent: list[Tensor] = []

    def send(value: Tensor) -> Tensor:
        sent.append(value)
        return value

    _scores(model, [first], "gate", all_reduce=send)
    received = iter(sent)
    joined = _scores(model, [second], "gate", all_reduce=lambda value: value + next(received))
    _assert_close(joined, _scores(model, [data], "gate"))


@pytest.mark.parametrize("norm", [0.5, 3.0])
def test_the_token_gate_says_nothing_in_deep(norm: float) -> None:
    """A LayerNorm does not see the scale of a prompt, so p and its gradient are orthogonal.

    Keys and values pass none. If this fails because "token" became large, look whether prompts
    still enter through norm1.
    """
    relative = {}
    batch = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    for mode in MODES:
        model = create_model("vit_demo_patch8_32", 10, 8, mode=mode, head_init="vpt")
        values = model.prompts.values.data
        values *= norm / values.norm(dim=2, keepdim=True)
        norms = _scores(model, [batch], "gradient_norm")
        relative[mode] = _scores(model, [batch], "token") / norms
    assert relative["deep"].max() < 1e-3
    assert min(relative[mode].median() for mode in ("prefix", "shallow")) > 1e-2


def _state(model: nn.Module) -> dict[str, Any]:
    """Return copies of all that scoring must not change."""
    parameters = list(model.named_parameters())
    return {
        "state": {name: value.nan_to_num(7).tolist() for name, value in model.state_dict().items()},
        "gradients": {n: None if p.grad is None else p.grad.tolist() for n, p in parameters},
        "trained": {n: p.requires_grad for n, p in parameters},
        "modes": {n: m.training for n, m in model.named_modules()},
        "hooks": [n for n, m in model.named_modules() if m._forward_hooks or m._forward_pre_hooks],
        "random": torch.get_rng_state().tolist(),
        "gradients are recorded": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@every_mode
@every_method
def test_scoring_leaves_no_trace_and_scores_what_is_kept(
    build: Any, data: Data, mode: str, method: Any, training: bool
) -> None:
    model = build(mode=mode, prompt_dropout=0.2, drop_rate=0.2)
    model.head = nn.Sequential(nn.BatchNorm1d(48), model.head)  # buffers that a forward may move
    model.train(training)
    model.blocks[1].train(not training)  # no mode that one call of train() would restore
    model.prompts.apply_mask(list(KEEP[: len(model.prompts.keep)]))
    for parameter in model.head.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = _state(model)
    more = torch.zeros(len(data[1]))  # labels may be followed by more
    loader = DataLoader(TensorDataset(*data, more), batch_size=4, shuffle=True)
    scores, keep = score_prompts(model, loader, method), model.prompts.keep
    assert _state(model) == before
    # Masked prompts have no score, and are never selected.
    assert all(layer.dtype == torch.float64 and not layer.requires_grad for layer in scores)
    assert torch.equal(torch.stack(scores) == float("-inf"), ~keep)
    assert torch.stack(scores)[keep].isfinite().all()
    assert torch.equal(torch.stack(select_prompts(scores, 1.0)), keep)
    assert model.prompts.log_gate is None


@pytest.mark.parametrize("method", ["gate", "leave_one_out"])
def test_scoring_leaves_no_trace_when_the_data_fail(build: Any, data: Data, method: Any) -> None:
    model = build(prompt_dropout=0.2).train()
    before = _state(model)

    def failing() -> Iterator[Data]:
        torch.rand(1)
        yield data
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        score_prompts(model, failing(), method)
    assert _state(model) == before


@every_method
def test_scores_do_not_depend_on_mode_dropout_inference_mode_or_autocast(
    build: Any, data: Data, method: Any
) -> None:
    model = build(prompt_dropout=0.5, drop_rate=0.5)
    expected = _scores(model, [data], method)
    assert torch.equal(_scores(model.train(), [data], method), expected)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_scores(model, [data], method), expected)


def test_what_can_not_be_scored_is_refused(build: Any, data: Data) -> None:
    linear, whole = build(mode="linear", num_prompts=0), data[0].to(torch.uint8)
    for model, batches, method, message in (
        (build(), [data], "best", "'best'; choose one of gate, gate_batch"),
        *((linear, [data], method, "no prompts to score") for method in METHODS),
        *((build(), [], method, "no images") for method in ("gate", "attention")),
        (build(), [(whole, data[1])], "gate", "uint8; normalise them first"),
    ):
        with pytest.raises(UsageError, match=message):
            score_prompts(model, batches, method)
