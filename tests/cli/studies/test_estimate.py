"""What a study is expected to compute, against counts of the models themselves."""

import json
import math
from typing import Any

import pytest
import torch

from pcvpt.analysis.cost import condensed_macs
from pcvpt.cli.studies import estimate
from pcvpt.cli.studies.study import Run
from pcvpt.models import create_model

TINY = "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("backbone", "mode", "execution"),
    [
        (TINY, "deep", "prefix"),
        (TINY, "deep", "tokens"),
        (TINY, "shallow", "prefix"),
        (TINY, "prefix", "prefix"),
        (TINY, "linear", "prefix"),
        ("swin_tiny_patch4_window7_224", "deep", "tokens"),
    ],
)
def test_the_cost_of_any_number_of_prompts_is_that_of_its_model(
    backbone: str, mode: Any, execution: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = 0 if mode == "linear" else 17
    with torch.device("meta"):
        model = create_model(
            backbone, 102, prompts, mode=mode, execution=execution, pretrained=False
        )
    expected = condensed_macs(model, [prompts] * len(model.prompts.keep), execution)
    settings = {"backbone": backbone, "mode": mode, "execution": execution}
    assert estimate._forward(json.dumps(settings), 102, prompts) == expected


def test_a_run_is_all_epochs_of_both_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_forward", lambda _, classes, prompts: classes * prompts)
    options = {
        "model.num_prompts": 20,
        "condense.keep": [0.5, 0.1],
        "condense.prompt_epochs": 3,
        "condense.finetune_epochs": 2,
    }
    run = Run(("demo.yaml",), tuple(options.items()))
    assert estimate.planned_macs(run) == 1000 * 10 * (3 * 20 + 2 * 10 + 2 * 2)
    # The prompts are those of another run.
    later = Run(run.configs, run.options, start=run)
    assert estimate.planned_macs(later) == 1000 * 10 * (2 * 10 + 2 * 2)
    all_images = {**options, "data.init_args.split": "train800val200"}
    cifar = Run(("cifar100.yaml",), tuple(all_images.items()))
    assert estimate.planned_macs(cifar) == 1000 * 100 * (3 * 20 + 2 * 10 + 2 * 2)


def test_own_images_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_forward", lambda *_: 1)
    assert math.isnan(estimate.planned_macs(Run(("folder.yaml",), ())))


def test_a_probe_takes_no_gradient_of_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "rate", lambda dtype: {"float32": 1e3, "bfloat16": 1e4}[dtype])
    deep, probe = Run(("demo.yaml",), ()), Run(("demo.yaml", "linear.yaml"), ())
    assert estimate.planned_seconds(deep, 1e6) == 2 * estimate.planned_seconds(probe, 1e6) == 2e3
    low = Run(("demo.yaml",), (("trainer.precision", "bf16-mixed"),))
    assert estimate.planned_seconds(low, 1e6) == 2e2
