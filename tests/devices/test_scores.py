"""Every score, in every precision that a run takes, on the CPU and on a GPU."""

import copy
from pathlib import Path
from typing import Any, get_args

import factories
import pytest
import torch
from factories import make_tuner
from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT_STR
from lightning.pytorch.callbacks import Callback

from miniature.backbones import MODES, arguments, shake
from pcvpt.condensation import Method, score_prompts
from pcvpt.training.evaluation import as_in_a_step

TOLERANCES = {
    "32-true": 1e-3,
    "64-true": 1e-5,  # gates and losses are in float32 even here
    "bf16-mixed": 1e-3,  # scores are computed without autocast
    "16-mixed": 1e-3,
    "bf16-true": 0.35,
    "16-true": 0.05,
}
METHODS = get_args(Method)


class AllScores(Callback):
    """Computes every score in the middle of the run, as the run does and in float64."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.dtype: torch.dtype | None = None

    def on_prompts_trained(self, trainer: Any, module: Any) -> None:
        batches = list(as_in_a_step(trainer, trainer.datamodule.scoring_dataloader()))[:1]
        exact = copy.deepcopy(module.model).double()
        wide = [[batch[0].double(), *batch[1:]] for batch in batches]
        self.dtype = module.model.prompts.dtype
        for method in METHODS:
            self.found[method] = (
                torch.stack(score_prompts(module.model, batches, method)).cpu(),
                torch.stack(score_prompts(exact, wide, method)).cpu(),
            )


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(
    ("backbone", "mode"),
    [
        ("class_token", "deep"),
        *(
            pytest.param(backbone, mode, marks=pytest.mark.slow)
            for backbone in ("class_token", "swin")
            for mode in MODES
            if (backbone, mode) != ("class_token", "deep")
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*leave_one_out")
def test_every_score_of_a_run_is_that_of_float64(
    tmp_path: Path, backbone: str, mode: str, precision: str, device: str
) -> None:
    name, options = arguments(backbone)
    torch.manual_seed(0)
    module = make_tuner(
        backbone=name, timm_kwargs=options, pretrained=False, mode=mode, num_prompts=3
    )
    shake(module.model)
    scores, at = AllScores(), {"accelerator": device, "devices": 1, "precision": precision}
    run = factories.fit(tmp_path, {"keep": 0.3}, module, callbacks=[scores], **at)
    assert 0 < sum(module.model.prompts.counts()) < module.model.prompts.keep.numel()
    assert run.report["accuracy_finetuned"] >= 0
    half = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}
    assert scores.dtype == half.get(precision, torch.float32)
    for method, (found, exact) in scores.found.items():
        if method.startswith("token") and mode != "shallow":
            continue  # round-off alone, as the methods are degenerate
        assert found.isfinite().all(), method
        assert exact.norm() > 0, method
        if method != "leave_one_out" or precision not in ("bf16-true", "16-true"):
            assert (found - exact).norm() <= TOLERANCES[precision] * exact.norm(), method


def test_the_table_has_every_precision_that_a_run_takes() -> None:
    known = {*get_args(_PRECISION_INPUT_STR)}
    assert {*TOLERANCES} == {name for name in known if not name.startswith("transformer-engine")}
