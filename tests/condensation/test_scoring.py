"""Scores against what they claim to be, computed another way."""

import copy
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pcvpt.condensation import Method, score_prompts, select_prompts
from pcvpt.errors import UsageError
from pcvpt.models import PromptedVisionTransformer, create_model

Data = tuple[Tensor, Tensor]
METHODS = get_args(Method)
ADDITIVE = sorted(set(METHODS) - {"gate_batch", "token_batch"})  # sums over images, then finished
SIZES = (3, 1, 2)  # of batches

KEEP = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)


def _batches(data: Data, sizes: tuple[int, ...] = SIZES) -> list[Data]:
    return list(zip(*(part.split(sizes) for part in data), strict=True))


def _scores(model: PromptedVisionTransformer, batches: Any, method: Any, **options: Any) -> Tensor:
    return torch.stack(score_prompts(model, batches, method, **options))


def _losses(model: PromptedVisionTransformer, data: Data, gate: Tensor | None = None) -> Tensor:
    """Return the loss of each image, its attention multiplied by ``gate`` (l, p)."""
    with torch.no_grad():
        if gate is None:
            return F.cross_entropy(model(data[0]), data[1], reduction="none")
        with model.prompts.gated(gate.log()[None]):
            return F.cross_entropy(model(data[0]), data[1], reduction="none")


def _gate_derivatives(model: PromptedVisionTransformer, data: Data, step: float = 1e-4) -> Tensor:
    """Return central differences (b, l, p) of each image's loss in each gate at 1."""
    model = copy.deepcopy(model).double()
    data = (data[0].double(), data[1])
    shape = model.prompts.keep.shape
    derivatives = torch.zeros(len(data[1]), *shape, dtype=torch.float64)
    for index in torch.ones(shape).nonzero().tolist():
        up, down = torch.ones(2, *shape, dtype=torch.float64)
        up[tuple(index)] += step
        down[tuple(index)] -= step
        change = _losses(model, data, up) - _losses(model, data, down)
        derivatives[:, index[0], index[1]] = change / (2 * step)
    return derivatives


def _assert_close(scores: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert scores.dtype == torch.float64
    assert expected.abs().max() > 0  # nothing would be compared otherwise
    assert (scores - expected).abs().max() <= tolerance * expected.abs().max()


def test_gate_scores_are_finite_differences_of_the_loss(
    build: Any, data: Data, mode: str, execution: str
) -> None:
    model = build(mode=mode, execution=execution)
    each = _gate_derivatives(model, data)
    _assert_close(_scores(model, _batches(data), "gate"), each.mean(0).abs())
    _assert_close(_scores(model, _batches(data), "gate_sample"), each.abs().mean(0))
    _assert_close(_scores(model, _batches(data), "gate_squared"), each.square().mean(0))
    of_batches = sum(part.sum(0).abs() for part in each.split(SIZES)) / len(each)
    _assert_close(_scores(model, _batches(data), "gate_batch"), of_batches)


def test_gate_scores_of_a_model_in_double_precision_are_the_same(
    build: Any, data: Data, mode: str, execution: str
) -> None:
    model = build(mode=mode, execution=execution).double()
    data = (data[0].double(), data[1])
    expected = _gate_derivatives(model, data).mean(0).abs()
    _assert_close(_scores(model, _batches(data), "gate"), expected, 1e-5)


def test_gate_scores_of_what_a_mask_leaves(
    build: Any, data: Data, mode: str, execution: str
) -> None:
    model = build(mode=mode, execution=execution)
    keep = KEEP[: len(model.prompts.keep)]
    model.prompts.apply_mask(list(keep))
    scores = _scores(model, _batches(data), "gate")
    assert (scores[~keep] == float("-inf")).all()
    expected = _gate_derivatives(model, data).mean(0).abs()
    _assert_close(scores[keep], expected[keep])


def test_a_shallow_prompt_has_one_gate_in_all_blocks(build: Any, data: Data) -> None:
    """Its score is the derivative in a gate that stands in every block, not in the first alone."""
    model = build(mode="shallow", execution="tokens")
    shared = _scores(model, [data], "gate")
    log_gates = [torch.zeros(len(data[1]), 4, requires_grad=True) for _ in model.blocks]
    turn = iter(log_gates)
    model.prompts.log_gate = lambda layer: next(turn)  # each block in turn asks for its own
    F.cross_entropy(model(data[0]), data[1]).backward()
    of_blocks = torch.stack([gate.grad.sum(0) for gate in log_gates]).double()
    _assert_close(shared[0], of_blocks.sum(0).abs())
    assert (of_blocks[1:].abs().max(1).values > 1e-5).all()


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
        without = copy.deepcopy(model)
        mask = keep.clone()
        mask[layer, prompt] = False
        without.prompts.apply_mask(list(mask))
        expected[layer, prompt] = _losses(without, data).mean() - base
    scores = _scores(model, _batches(data), "leave_one_out")
    assert torch.equal(scores.isfinite(), keep)
    _assert_close(scores[keep], expected[keep])
    assert (scores[keep] < 0).any()  # a growth, not its size
    assert masked or (scores[keep] > 0).any()  # of three prompts, all may harm


def test_token_scores_are_products_of_prompt_and_gradient(
    build: Any, data: Data, mode: str
) -> None:
    model = build(mode=mode).double()  # in Deep the products are what a cancellation leaves
    data = (data[0].double(), data[1])
    values = model.prompts.values
    gradients = torch.stack(
        [
            torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), values)[0]
            for x, y in _batches(data)
        ]
    )
    prompts, mean = values.detach(), gradients.sum(0) / len(data[1])
    products = (prompts * gradients).sum(3)
    token = _scores(model, _batches(data), "token")
    _assert_close(token, products.sum(0).abs() / len(data[1]))
    token = _scores(model, _batches(data), "token_batch")
    _assert_close(token, products.abs().sum(0) / len(data[1]))
    expected = mean.square().sum(2).sqrt() * prompts.square().sum(2).sqrt()
    _assert_close(_scores(model, _batches(data), "gradient_norm"), expected)


def test_magnitude_is_the_norm_and_needs_no_data(build: Any, mode: str) -> None:
    model = build(mode=mode)
    expected = model.prompts.values.detach().double().square().sum(2).sqrt()
    torch.testing.assert_close(_scores(model, [], "magnitude"), expected)


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
    _assert_close(scores, expected if mode == "deep" else expected.mean(0, keepdim=True))


def test_random_scores_follow_the_seed_alone(build: Any) -> None:
    model = build()
    first = _scores(model, [], "random", seed=1)
    torch.manual_seed(123)
    model.prompts.values.data.zero_()
    assert torch.equal(_scores(model, [], "random", seed=1), first)
    assert not torch.equal(_scores(model, [], "random", seed=2), first)
    assert first.unique().numel() == first.numel()
    assert ((first >= 0) & (first < 1)).all()


@pytest.mark.parametrize("method", ADDITIVE)
def test_the_division_into_batches_does_not_matter(
    build: Any, data: Data, mode: str, method: str
) -> None:
    model = build(mode=mode).double()  # "token" in Deep is what a cancellation leaves
    data = (data[0].double(), data[1])
    whole = _scores(model, [data], method)
    _assert_close(_scores(model, _batches(data), method), whole)


@pytest.mark.parametrize("method", ["gate_batch", "token_batch"])
def test_batch_scores_are_the_mean_score_of_their_batches(
    build: Any, data: Data, method: Any
) -> None:
    model = build(mode="shallow")
    one = method.removesuffix("_batch")
    parts = [len(y) * _scores(model, [(x, y)], one) for x, y in _batches(data)]
    _assert_close(_scores(model, _batches(data), method), sum(parts) / len(data[1]))


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


@pytest.fixture(scope="module")
def demo() -> PromptedVisionTransformer:
    return create_model("vit_demo_patch8_32", 10, 8)


@pytest.mark.parametrize("norm", [0.5, 1.0, 3.0])
def test_the_token_gate_says_nothing_in_deep(demo: PromptedVisionTransformer, norm: float) -> None:
    """A LayerNorm does not see the scale of a prompt, so p and its gradient are orthogonal.

    If this fails because "token" became large, look whether prompts still enter through norm1.
    """
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    model = copy.deepcopy(demo)
    values = model.prompts.values.data
    values *= norm / values.norm(dim=2, keepdim=True)
    token = _scores(model, [(images, labels)], "token")
    relative = token / _scores(model, [(images, labels)], "gradient_norm")
    assert relative.max() < 1e-3


def test_the_token_gate_says_something_in_shallow() -> None:
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    model = create_model("vit_demo_patch8_32", 10, 8, mode="shallow")
    token = _scores(model, [(images, labels)], "token")
    relative = token / _scores(model, [(images, labels)], "gradient_norm")
    assert relative.median() > 1e-2


def _loader(data: Data) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*data), batch_size=4, shuffle=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("method", METHODS)
def test_scoring_leaves_no_trace(
    build: Any, data: Data, mode: str, method: Any, training: bool
) -> None:
    model = build(mode=mode, prompt_dropout=0.2, drop_rate=0.2)
    model.head = nn.Sequential(nn.BatchNorm1d(48), model.head)  # buffers that a forward may move
    model.train(training)
    model.blocks[1].train(not training)  # no mode that one call of train() would restore
    model.prompts.apply_mask(list(KEEP[: len(model.prompts.keep)]))
    for parameter in model.head.parameters():
        parameter.grad = torch.randn_like(parameter)
    state = copy.deepcopy(model.state_dict())
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in _parameters(model)}
    wanted = {n: p.requires_grad for n, p in _parameters(model)}
    modes = {n: m.training for n, m in model.named_modules()}
    random = torch.get_rng_state()

    _scores(model, _loader(data), method)

    assert torch.equal(torch.get_rng_state(), random)
    assert {n: m.training for n, m in model.named_modules()} == modes
    assert {n: p.requires_grad for n, p in _parameters(model)} == wanted
    assert set(model.state_dict()) == set(state)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0, equal_nan=True)
    for name, parameter in _parameters(model):
        before = gradients[name]
        if before is None:
            assert parameter.grad is None, name
        else:
            assert torch.equal(parameter.grad, before), name
    assert all(model.prompts.log_gate(layer) is None for layer in range(len(state["prompts.keep"])))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.is_grad_enabled()


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())


@pytest.mark.parametrize("method", ["gate", "attention", "leave_one_out"])
def test_scoring_leaves_no_trace_when_the_data_fail(build: Any, data: Data, method: Any) -> None:
    model = build(prompt_dropout=0.2).train()
    random = torch.get_rng_state()

    def failing() -> Iterator[Data]:
        torch.rand(1)
        yield data
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        score_prompts(model, failing(), method)
    assert model.training
    assert model.prompts.training
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_depend_on_mode_or_dropout(build: Any, data: Data, method: Any) -> None:
    model = build(prompt_dropout=0.5, drop_rate=0.5)
    quiet = _scores(model, [data], method)
    assert torch.equal(_scores(model.train(), [data], method), quiet)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_the_same_inside_inference_mode_and_autocast(
    build: Any, data: Data, method: Any
) -> None:
    model = build()
    expected = _scores(model, [data], method)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_scores(model, [data], method), expected)


@pytest.mark.parametrize("method", METHODS)
def test_masked_prompts_are_never_selected_again(build: Any, data: Data, method: Any) -> None:
    model = build()
    model.prompts.apply_mask(list(KEEP))
    scores = _scores(model, [data], method)
    assert torch.equal(scores == float("-inf"), ~KEEP)
    assert scores[KEEP].isfinite().all()
    assert torch.equal(torch.stack(select_prompts(list(scores), 1.0)), KEEP)


@pytest.mark.parametrize("method", METHODS)
def test_each_layer_has_one_score_for_each_prompt(
    build: Any, data: Data, mode: str, method: Any
) -> None:
    scores = score_prompts(build(mode=mode), [data], method)
    assert [tuple(layer.shape) for layer in scores] == [(4,)] * (3 if mode == "deep" else 1)
    assert all(layer.dtype == torch.float64 and not layer.requires_grad for layer in scores)


def test_labels_may_be_followed_by_more(build: Any, data: Data) -> None:
    model = build()
    more = [(*data, ["a.jpg"] * len(data[1]))]
    assert torch.equal(_scores(model, more, "gate"), _scores(model, [data], "gate"))


def test_an_unknown_method_is_refused(build: Any, data: Data) -> None:
    with pytest.raises(UsageError, match="score method 'best'; choose one of gate, gate_batch"):
        score_prompts(build(), [data], "best")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_prompts_is_refused(build: Any, data: Data, method: Any) -> None:
    with pytest.raises(UsageError, match="no prompts to score"):
        score_prompts(build(mode="linear", num_prompts=0), [data], method)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"magnitude", "random"}))
def test_no_data_is_refused(build: Any, method: Any) -> None:
    with pytest.raises(UsageError, match="no images to score the prompts with"):
        score_prompts(build(), [], method)
