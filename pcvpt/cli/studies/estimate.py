"""What the runs of a study will compute, before any of them was fitted."""

import json
import math
import timeit
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch

from pcvpt.analysis.cost import condensed_macs
from pcvpt.callbacks import PromptCondensation
from pcvpt.cli.cost import classes_of, task_of
from pcvpt.cli.studies.study import Run
from pcvpt.models import create_model
from pcvpt.models.factory import timm_arguments

_OF_MODEL = "backbone", "mode", "execution", "image_size", "pool_prompts", "timm_kwargs"
_SIDE = 2048  # of the matrices by which the device is timed


def planned_macs(run: Run) -> float:
    """Return the multiply-accumulates of the forward passes of ``run`` on training images.

    Fine-tuned prompts are taken as spread evenly over the layers; training decides which are kept.
    The result is NaN where only the images tell how many there are.
    """
    merged = run.merged()
    images, section = _training_images(merged["data"]), merged["model"]
    if math.isnan(images):
        return math.nan
    classes = classes_of(merged["data"])
    settings = json.dumps({key: section[key] for key in _OF_MODEL if key in section})
    condense = PromptCondensation(**merged.get("condense", {}))
    schedule, prompts = condense.schedule, section["num_prompts"]
    per_image = 0
    if run.start is None:
        per_image += schedule.prompt_epochs * _forward(settings, classes, prompts)
    for name in schedule.budgets:
        part = condense.budgets[name]  # None where training decides
        kept = prompts if part is None else round(part * prompts)
        per_image += schedule.finetune_epochs * _forward(settings, classes, kept)
    return images * per_image


def planned_seconds(run: Run, macs: float) -> float:
    """Return the time of ``macs`` in training, if all were products of large matrices.

    A real run takes longer. The gradients of prompts need as many products again as the forward
    passes, those of a linear probe none.
    """
    merged = run.merged()
    times = 1 if merged["model"].get("mode") == "linear" else 2
    low = str(merged.get("trainer", {}).get("precision", "")).startswith("bf16")
    return times * macs / rate("bfloat16" if low else "float32")


@cache
def rate(dtype: str) -> float:
    """Measure the multiply-accumulates per second of large products on this machine's device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(_SIDE, _SIDE, dtype=getattr(torch, dtype), device=device)
    seconds = timeit.repeat(lambda: (matrix @ matrix)[0, 0].item(), repeat=3, number=1)
    return float(_SIDE**3 / min(seconds))


def _training_images(data: Mapping[str, Any]) -> float:
    task = task_of(data)
    if hasattr(task, "row"):  # one of the 24 tasks, of which no file is read
        val = 0 if task(**data.get("init_args", {})).held_out else task.row.val
        return float(task.row.train + val)
    return len(task().read_splits().train) if hasattr(task, "CLASS_NAMES") else math.nan


def _forward(settings: str, classes: int, prompts: int) -> int:
    """Return the multiply-accumulates of one image with ``prompts`` in each layer."""
    width, first, second, third = _counted(settings)
    more, curvature = second - first, third - 2 * second + first
    beyond = prompts - 1
    quadratic = first + beyond * more + beyond * (beyond - 1) // 2 * curvature
    return quadratic + (classes - 2) * width


@cache
def _counted(settings: str) -> tuple[int, int, int, int]:
    """Return the width of a model with two classes, and the cost of one, two and three prompts.

    A count takes a second or more. Attention makes the cost a polynomial of degree two, at most.
    """
    options = json.loads(settings)
    options |= timm_arguments(options.pop("image_size", None), options.pop("timm_kwargs", None))
    prompts = 0 if options.get("mode") == "linear" else 3
    with torch.device("meta"):
        model = create_model(num_classes=2, num_prompts=prompts, pretrained=False, **options)
    layers = len(model.prompts.keep)
    counts = [min(count, prompts) for count in (1, 2, 3)]
    costs = {n: condensed_macs(model, [n] * layers, model.execution) for n in set(counts)}
    first, second, third = (costs[count] for count in counts)
    return int(cast(Any, model).num_features), first, second, third
