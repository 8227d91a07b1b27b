"""``pcvpt analyze NAME RUN``: the paper's analyses, and some more, on finished runs.

The module of an analysis is imported when it is called, so that ``--help`` needs no torch.
"""

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pcvpt.errors import UsageError

ANALYSES = {
    "spectrum": "Share of attention that a few eigenvalues hold, by number of prompts.",
    "layers": "Accuracy without the prompts of each block, and with those of one block alone.",
    "attention": "Attention between prompts and patches, and rollouts over images.",
    "scores": "Scores of prompts compared: accuracy at equal budget, and rank correlations.",
}
"""Description by name; each is a module here with ``add_options(parser)`` and ``run``."""

_MAY_BE_ZERO = ("exact_images", "prompts")  # of the options that are whole numbers
_EXAMPLES = """examples:
  pcvpt analyze scores runs/demo
  pcvpt analyze spectrum runs/cars/version_3 --images 32
  pcvpt analyze layers runs/cars --split test --data.root /other/place

RUN is a run folder, or the folder above it (then the newest run is used), or the file of an
adapter. Each analysis prints a table, and writes CSV files and figures (PNG, SVG) to the folder
`analysis` of the run, or to --output. Options of `pcvpt fit` that begin with --data., --model. or
--config are accepted too; they stand after RUN."""


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt analyze``; return the exit status. A UsageError tells a wrong argument or run."""
    name = next((argument for argument in arguments if argument in ANALYSES), None)
    options, further = _parser(name).parse_known_args(list(arguments) or ["--help"])
    for key, value in vars(options).items():
        least = 0 if key in _MAY_BE_ZERO else 1
        for number in value if isinstance(value, list) else [value]:
            if type(number) is int and number < least:
                raise UsageError(f"--{key} {number}; give at least {least}")
    options.run(options, further)
    return 0


def _parser(called: str | None) -> argparse.ArgumentParser:
    """Return the parser; only the analysis that is ``called`` has its options."""
    form: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    text = "Analyses of a finished run: a table, CSV files and figures."
    parser = argparse.ArgumentParser("pcvpt analyze", description=text, epilog=_EXAMPLES, **form)
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, text in ANALYSES.items():
        command = commands.add_parser(name, help=text, **form)
        if name != called:
            continue
        module = import_module(f"pcvpt.cli.analyze.{name}")
        command.description = module.__doc__
        command.set_defaults(run=module.run)
        add = command.add_argument
        add("runs", metavar="RUN", nargs="+", help="Folder of a run, or file of an adapter.")
        add("--output", type=Path, help="Folder to write to. Default: `analysis` of the first RUN.")
        add("--overwrite", action="store_true", help="Replace the files of an earlier analysis.")
        add("--device", help="Device, such as cuda:1. Default: the first GPU, otherwise the CPU.")
        add("--checkpoint", help="Checkpoint of the run, such as prompt-last. Default: see above.")
        module.add_options(command)
    return parser
