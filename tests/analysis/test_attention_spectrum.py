import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.analysis.attention_spectrum import (
    attention_spectrum,
    best_of_each_layer,
    logarithmic_fit,
    normalised_cumulative,
    over_blocks,
    rank_for,
)
from pcvpt.errors import UsageError

SIZE = 12


@pytest.fixture(params=["eigen", "singular"])
def values(request: pytest.FixtureRequest) -> Any:
    return request.param


def _attention_of_rank(rank: int) -> Tensor:
    """Return a matrix of that rank whose rows are positive and sum to 1."""
    generator = torch.Generator().manual_seed(rank)
    left, right = torch.randn(2, SIZE, rank, generator=generator, dtype=torch.float64)
    return (3 * left).softmax(1) @ (3 * right.T).softmax(1)


@pytest.mark.parametrize("rank", [1, 2, 5, SIZE])
def test_the_spectrum_of_a_known_rank_is_used_up_there(rank: int, values: Any) -> None:
    matrix = _attention_of_rank(rank)
    assert torch.linalg.matrix_rank(matrix) == rank
    shares = normalised_cumulative(matrix, values)
    assert shares.shape == (SIZE,)
    assert float(shares[rank - 1]) == pytest.approx(1, abs=1e-7)
    assert rank == 1 or float(shares[rank - 2]) < 1 - 1e-5
    assert int(rank_for(shares + 1e-9, 1.0)) == rank


def test_the_spectrum_of_simple_matrices(values: Any) -> None:
    uniform = normalised_cumulative(torch.full((SIZE, SIZE), 1 / SIZE), values)
    torch.testing.assert_close(uniform, torch.ones(SIZE, dtype=torch.float64))
    for matrix in torch.eye(10), torch.eye(10).roll(1, 0):  # the latter has complex eigenvalues
        shares = normalised_cumulative(matrix, values)
        torch.testing.assert_close(shares, torch.arange(1, 11, dtype=torch.float64) / 10)
    ranks = [int(rank_for(shares, share)) for share in (0.05, 0.1, 0.85, 0.9, 1.0)]
    assert ranks == [1, 1, 9, 9, 10]


def test_eigenvalues_count_by_their_absolute_value_and_are_not_singular_values() -> None:
    # Eigenvalues 2 and -1; squared singular values are the roots of x² - 6x + 4, of M Mᵀ.
    matrix = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    assert normalised_cumulative(matrix)[0] == pytest.approx(2 / 3)
    roots = [(6 + sign * math.sqrt(36 - 16)) / 2 for sign in (1, -1)]
    largest, smallest = (math.sqrt(root) for root in roots)
    expected = largest / (largest + smallest)
    assert normalised_cumulative(matrix, "singular")[0] == pytest.approx(expected)


def test_the_spectrum_is_the_mean_over_images_and_windows_of_the_whole_matrices(
    build: Any, images: Any, mask_some: Any, seen_in: Any, family: str, mode: str, values: Any
) -> None:
    model = build(family, mode=mode)
    mask_some(model)
    x = images(model, 5)  # more than are taken at once
    matrices = [seen.weights for seen in seen_in(model, x)]
    for found, block in zip(attention_spectrum(model, x, values), matrices, strict=True):
        each = [normalised_cumulative(window, values) for image in block for window in image]
        torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-4, atol=1e-6)


def test_saturated_attention_to_one_prompt_is_of_rank_one(build: Any, images: Any) -> None:
    model = build(num_prompts=1)
    for block in model.blocks:
        block.attn.qkv.weight.data[:96] = 0  # no query, no key: all columns alike
        block.attn.qkv.bias.data[:96] = 0
    for curves in attention_spectrum(model, images(model)):
        torch.testing.assert_close(curves, torch.ones_like(curves), rtol=0, atol=1e-6)


def test_a_shorter_spectrum_stays_at_its_end() -> None:
    short, long = torch.tensor([[0.5, 1.0]]), torch.tensor([[0.4, 0.6, 0.9, 1.0]])
    mean, deviation = over_blocks([short, long])
    torch.testing.assert_close(mean, torch.tensor([0.45, 0.8, 0.95, 1.0]))
    torch.testing.assert_close(deviation, torch.tensor([0.05, 0.2, 0.05, 0.0]))


def test_the_best_of_each_layer_are_kept_or_all_if_fewer(build: Any, mask_some: Any) -> None:
    model = build()
    model.prompts.apply_mask([torch.tensor([True, True, False, True])] * 3)
    scores = torch.tensor([[1.0, 3.0, 9.0, 2.0]] * 3)
    marks = best_of_each_layer(model, 2, scores)
    assert torch.stack(marks).int().tolist() == [[0, 1, 0, 1]] * 3
    marks = best_of_each_layer(model, 2, model.prompts.scores)  # NaN: the first ones
    assert torch.stack(marks).int().tolist() == [[1, 1, 0, 0]] * 3
    assert not torch.stack(best_of_each_layer(model, 0, scores)).any()
    keep = mask_some(model)  # 3, 0 and 2 of 4
    assert torch.equal(torch.stack(best_of_each_layer(model, 3, model.prompts.scores)), keep)


def test_wrong_arguments_are_refused(build: Any, images: Any) -> None:
    model = build()
    with pytest.raises(UsageError, match="values='other'"):
        attention_spectrum(model, images(model), "other")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no images"):
        attention_spectrum(model, images(model)[:0])
    for count in (-1, 5):
        with pytest.raises(UsageError, match=f"{count} prompts"):
            best_of_each_layer(model, count, model.prompts.scores)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(UsageError, match="share="):
            rank_for(torch.ones(3), share)


def test_a_logarithm_is_found_again() -> None:
    lengths = [17.0, 27.0, 40.0, 90.0]
    fit = logarithmic_fit(lengths, [2 + 3 * math.log(n) for n in lengths])
    assert fit == pytest.approx((2, 3))
    assert logarithmic_fit([17.0], [4.0]) is None
    assert logarithmic_fit([17.0, 17.0], [4.0, 5.0]) is None
