"""``pcvpt analyze NAME RUN``: the paper's analyses, and some more, on one's own runs."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pcvpt.cli.analyze import attention, cost, curve, layers, scores, spectrum
from pcvpt.errors import UsageError

ANALYSES: dict[str, ModuleType] = {
    "spectrum": spectrum,
    "layers": layers,
    "attention": attention,
    "curve": curve,
    "scores": scores,
    "cost": cost,
}
"""By name, modules with a first line, ``add_options(parser)`` and ``run(options, further)``."""

_EXAMPLES = """examples:
  pcvpt analyze curve runs/demo
  pcvpt analyze spectrum runs/cars/version_3 --images 32
  pcvpt analyze layers runs/cars --split test --data.root /other/place

RUN is the folder of a run (or of its versions: the newest is taken), or an adapter's file. A CSV
and a figure (PNG, SVG) go into the run's folder, in `analysis`, or into that of --output. Options
that begin with --data., --model. or --config are those of `pcvpt fit`; they stand after RUN."""


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt analyze``; return the exit status.

    Raises:
        UsageError: for whatever is wrong with the arguments or the run.
    """
    options, further = _parser().parse_known_args(list(arguments) or ["--help"])
    run: Callable[[argparse.Namespace, Sequence[str]], Any] = options.analysis
    options.device = _device(options.device)
    run(options, further)
    return 0


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter: built without CUDA
        raise UsageError(f"--device {name}: no such device here ({error})") from error
    return device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcvpt analyze",
        description="Analyses of a finished run: a table, a CSV and a figure each.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, module in ANALYSES.items():
        text = module.__doc__ or ""
        made = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.set_defaults(analysis=module.run)
        made.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run, or an adapter")
        made.add_argument("--output", type=Path, help="folder to write to")
        made.add_argument("--overwrite", action="store_true", help="replace an earlier analysis")
        made.add_argument("--device", help="such as cuda:1; the first GPU if there is one")
        made.add_argument(
            "--checkpoint", help="of the run, such as prompt-last; for none, see above"
        )
        module.add_options(made)
    return parser
