"""Multiply-accumulates, latency and memory against prompts, on this machine.

Of prompts in the sequence (tokens, the paper's table), of prompts as keys and values (prefix), and
of those that the run keeps. Looks at the condensed best unless --checkpoint names another; other
numbers of prompts are measured on a model like it with random weights. No image is read.
"""

import argparse
import platform
from collections.abc import Mapping, Sequence

import torch

from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.figures.cost import cost_figure
from pcvpt.analysis.measured_cost import Measured, forms, measure_costs
from pcvpt.cli.analyze.output import Output, as_table
from pcvpt.cli.analyze.trained_model import naming, one_run, open_subject
from pcvpt.errors import UsageError
from pcvpt.runs.environment import own_version


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    parser.add_argument(
        "--prompts", type=int, nargs="+", metavar="K",
        help="of each block; default: none, and 1/4, 1/2, 1 and 2 times those of the run",
    )  # fmt: skip
    parser.add_argument(
        "--batches", type=int, nargs="+", metavar="B", default=[1, 8],
        help="images of a forward pass; default: 1 8",
    )  # fmt: skip
    parser.add_argument(
        "--repeats", type=int, metavar="N", default=20, help="rounds of timing; default: 20"
    )


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Measure what one run or adapter costs, and write table and figure.

    Raises:
        UsageError: for several runs, a linear probe, and numbers out of their range.
    """
    for name, values, least in (
        ("prompts", options.prompts or [], 0),
        ("batches", options.batches, 1),
        ("repeats", [options.repeats], 1),
    ):
        for value in values:
            if value < least:
                raise UsageError(f"--{name} {value}; give at least {least}")
    subject = open_subject(one_run(options, "cost"), options.checkpoint, further)
    model = subject.model.to(options.device)
    with naming(subject):
        require_prompts(model)
        model.prompts.require_thawed()
        plan = model.blueprint
        assert plan is not None  # create_model made it
        own = plan.num_prompts
        counts = options.prompts or [0, own // 4, own // 2, own, 2 * own]
        measured_forms = forms(model, sorted(set(counts)))
    output = Output(options.output or subject.folder, "cost", options.overwrite)
    sizes = list(dict.fromkeys(options.batches))
    measured = measure_costs(measured_forms, sizes, options.repeats)
    machine = _machine(options.device)
    said = {
        "backbone": plan.backbone,
        "mode": model.mode,
        "precision": str(model.prompts.dtype).removeprefix("torch."),
        "repeats": options.repeats,
        **machine,
    }
    output.table([{**_row(one), **said} for one in measured])
    where = "block" if model.mode == "deep" else "image, before the first block"
    title = (
        f"Cost of prompts for {plan.backbone} ({model.mode}) at "
        f"{'x'.join(map(str, model.patch_embed.img_size))} pixels; measured on "
        f"{machine['device']}, threads: {machine['threads']}"
    )
    output.figure(cost_figure(measured, f"prompts of each {where}", title))
    output.show(as_table([_shown(one) for one in measured], title))


def _row(one: Measured) -> dict[str, object]:
    row: dict[str, object] = {
        "form": one.form,
        "prompts_per_layer": one.prompts,
        "prompts": one.total,
        "multiply_accumulates": one.macs,
        "once_per_batch": one.shared,
        "memory_bytes_per_image": one.memory,
        "memory_bytes_once_per_batch": one.memory_shared,
    }
    for size, seconds in one.latency.items():
        row |= {
            f"seconds_batch_{size}": seconds.median,
            f"seconds_batch_{size}_lower_quartile": seconds.low,
            f"seconds_batch_{size}_upper_quartile": seconds.high,
        }
    return row


def _shown(one: Measured) -> Mapping[str, object]:
    times = {
        f"ms_for_{size}": f"{1e3 * s.median:.2f} ({1e3 * s.low:.2f} to {1e3 * s.high:.2f})"
        for size, s in one.latency.items()
    }
    return {
        "form": one.form,
        "prompts": one.total,
        "M_multiply_accumulates": one.macs / 1e6,
        **times,
        "MiB_for_backward": one.memory / 2**20,
    }


def _machine(device: torch.device) -> dict[str, object]:
    """Return what times depend on beside the model."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "torch": str(torch.__version__),
        "pcvpt": own_version(),
    }


def _processor() -> str:
    """Return the name of the processor, or at least its kind."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            named = (line.partition(":")[2].strip() for line in lines if "model name" in line)
            return next(named, "") or platform.machine()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
