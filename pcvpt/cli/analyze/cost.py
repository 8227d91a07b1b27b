"""Multiply-accumulates, latency and memory by number of prompts, on this machine.

They are measured for prompts in the sequence ("tokens", as in the paper's table), for prompts as
keys and values ("prefix"), and for the prompts that the run keeps. The default checkpoint is the
best one after condensation; other numbers of prompts are measured on a model of the same kind with
random weights. No image is read.
"""

import argparse
import platform
from collections.abc import Mapping, Sequence

import torch

from pcvpt.analysis.figures.cost import cost_figure
from pcvpt.analysis.measured_cost import MeasuredCost, forms, measure_costs
from pcvpt.cli.analyze.results import Results
from pcvpt.cli.analyze.trained_model import open_models
from pcvpt.cli.tables import print_table
from pcvpt.cli.titles import MODE_TITLES
from pcvpt.runs.environment import device_name, own_version


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    add = parser.add_argument
    text = "Numbers of prompts of each block. Default: 0, and 1/4, 1/2, 1 and 2 times the run's."
    add("--prompts", type=int, nargs="+", metavar="K", help=text)
    text = "Batch sizes of the timed forward passes. Default: 1 8."
    add("--batches", type=int, nargs="+", metavar="B", default=[1, 8], help=text)
    add("--repeats", type=int, metavar="N", default=20, help="Rounds of timing. Default: 20.")


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Measure the cost of one run or adapter, and write table and figure."""
    (trained,) = open_models(options, further, single=True)
    model = trained.model
    plan = model.blueprint
    assert plan is not None  # create_model made it
    own = plan.num_prompts
    counts = options.prompts or [0, own // 4, own // 2, own, 2 * own]
    measured_forms = forms(model, sorted(set(counts)))
    results = Results(options.output or trained.folder, "cost", options.overwrite)
    sizes = list(dict.fromkeys(options.batches))
    measured = measure_costs(measured_forms, sizes, options.repeats)
    machine = _machine(model.prompts.device)
    setting = {
        "backbone": plan.backbone,
        "mode": model.mode,
        "precision": str(model.prompts.dtype).removeprefix("torch."),
        "repeats": options.repeats,
        **machine,
    }
    results.write_table([{**_row(one), **setting} for one in measured])
    where = "block" if model.has_own_prompts else "image, before the first block"
    title = (
        f"Cost of prompts for {plan.backbone} ({MODE_TITLES[model.mode]}) at "
        f"{'x'.join(map(str, model.patch_embed.img_size))} pixels; measured on "
        f"{machine['device']}, threads: {machine['threads']}"
    )
    results.write_figure(cost_figure(measured, f"prompts of each {where}", title))
    print_table([_short_row(one) for one in measured], title)


def _row(one: MeasuredCost) -> dict[str, object]:
    *counts, seconds = one
    return dict(zip(one._fields, counts, strict=False)) | {
        f"seconds_batch_{size}{edge}": value
        for size, spread in seconds.items()
        for edge, value in zip(("", "_lower_quartile", "_upper_quartile"), spread, strict=True)
    }


def _short_row(one: MeasuredCost) -> Mapping[str, object]:
    times = {
        f"ms_for_{size}": f"{1e3 * s.median:.2f} ({1e3 * s.low:.2f} to {1e3 * s.high:.2f})"
        for size, s in one.seconds.items()
    }
    return {
        "form": one.form,
        "prompts": one.prompts,
        "numbers_of_prompts": one.numbers_of_prompts,
        "M_multiply_accumulates": one.multiply_accumulates / 1e6,
        **times,
        "MiB_for_backward": one.memory_bytes_per_image / 2**20,
    }


def _machine(device: torch.device) -> dict[str, object]:
    """Return what times depend on besides the model."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "torch": str(torch.__version__),
        "pcvpt": own_version(),
    }
