"""Scores and merges in every precision: those of float64, up to round-off."""

import copy
from typing import Any, get_args

import pytest
import torch

from miniature.backbones import WAYS, build, images, masked
from pcvpt.condensation import Method, merge_prompts, score_prompts
from pcvpt.models.joint_attention import JointAttention

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.35, torch.float16: 0.05}
slow = pytest.mark.slow
# Precision of the backbone, of the prompts, and whether they are joined, as on a GPU.
CASES = [
    (torch.float32, torch.float32, False),
    (torch.bfloat16, torch.bfloat16, False),
    (torch.float16, torch.float16, True),
    (torch.bfloat16, torch.float32, True),
    pytest.param(torch.float32, torch.float32, True, marks=slow),
    pytest.param(torch.bfloat16, torch.bfloat16, True, marks=slow),
    pytest.param(torch.float16, torch.float16, False, marks=slow),
    pytest.param(torch.bfloat16, torch.float32, False, marks=slow),
]
METHODS = [method for method in get_args(Method) if method != "random"]
precisions = pytest.mark.parametrize("dtype", TOLERANCES)
some = pytest.mark.parametrize("backbone", ["class_token", "eva02_inner_norm", "dinov3", "swin"])
every_way = pytest.mark.parametrize(("mode", "execution"), WAYS)


def _scores(model: Any, method: Any) -> torch.Tensor:
    scores = torch.stack(score_prompts(model, [(images(model), torch.arange(3))], method))
    return scores[model.prompts.keep]


@pytest.mark.filterwarnings("ignore:score leave_one_out")
@pytest.mark.parametrize(("dtype", "of_prompts", "joined"), CASES)
@every_way
@some
def test_every_score_is_that_of_float64(
    backbone: str,
    mode: str,
    execution: str,
    dtype: torch.dtype,
    of_prompts: torch.dtype,
    joined: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if joined:
        monkeypatch.setattr(JointAttention, "_is_apart", lambda _: False)
    model = masked(build(backbone, mode=mode, execution=execution)).to(dtype)
    model.prompts.to(of_prompts)
    exact = copy.deepcopy(model).double()
    for method in METHODS:
        if mode in ("deep", "prefix") and method.startswith("token"):
            continue  # round-off alone, as the methods are degenerate
        expected, found = _scores(exact, method), _scores(model, method)
        # The loss with and without a prompt is rounded before the small difference is taken.
        leeway = 3 if method == "leave_one_out" else 1
        assert (found - expected).norm() < leeway * TOLERANCES[dtype] * expected.norm(), method


@precisions
@every_way
@some
def test_merged_prompts_predict_as_those_of_float64(
    backbone: str, mode: str, execution: str, dtype: torch.dtype
) -> None:
    model = masked(build(backbone, mode=mode, execution=execution)).to(dtype)
    exact = copy.deepcopy(model).double()
    batch, found = images(model), []
    for each in (model, exact):
        each.prompts.apply_merge(merge_prompts(each, [(batch,)], 0.5))
        each.train()(batch.to(each.prompts.dtype)).square().sum().backward()
        with torch.no_grad():
            found.append(each.eval()(batch.to(each.prompts.dtype)).double())
    assert (found[0] - found[1]).norm() < 0.1 * found[1].norm()


def test_a_score_that_half_precision_rounds_away_is_warned_of() -> None:
    model = build("class_token")
    _scores(model, "leave_one_out")  # in float32 there is no warning
    with pytest.warns(UserWarning, match="leave_one_out.*bfloat16.*32-true"):
        _scores(model.to(torch.bfloat16), "leave_one_out")
