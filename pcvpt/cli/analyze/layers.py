"""Accuracy without the prompts of each block, and with those of one block alone.

Looks at the end of prompt training (prompt-last) unless --checkpoint names another.
"""

import argparse
from collections.abc import Sequence

from pcvpt.analysis.figures.layers import layers_figure
from pcvpt.analysis.layer_removal import layer_removals, require_layers
from pcvpt.cli.analyze.output import Output, as_table
from pcvpt.cli.analyze.trained_model import naming, one_run, open_with_all_prompts


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("--images", type=int, metavar="N", help="about so many; default: all")


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Measure the accuracies of one run, and write table and figure.

    Raises:
        UsageError: for several runs, one without prompts in every block, and an empty split.
    """
    subject = open_with_all_prompts(one_run(options, "layers"), options.checkpoint, further)
    model = subject.model.to(options.device)
    with naming(subject):
        require_layers(model)
        model.prompts.require_thawed()
    batches = subject.batches(options.split, options.images)
    output = Output(options.output or subject.folder, "layers", options.overwrite)
    found = layer_removals(model, batches)
    rows = [
        {
            "block": block,
            "prompts": count,
            "accuracy_without": without,
            "accuracy_alone": only,
            "accuracy_untouched": found.untouched,
            "accuracy_no_prompts": found.none,
        }
        for block, (count, without, only) in enumerate(
            zip(found.kept, found.without, found.only, strict=True)
        )
    ]
    output.table(rows)
    title = f"Accuracy of {subject.name} on {found.images:,} {options.split} images, in percent"
    output.figure(layers_figure(found, title))
    output.show(as_table(rows, title))
