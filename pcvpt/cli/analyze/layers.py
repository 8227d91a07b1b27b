"""Accuracy without the prompts of each block, and with those of one block alone.

The default checkpoint is the end of prompt training (prompt-last).
"""

import argparse
from collections.abc import Sequence

from pcvpt.analysis.figures.layers import layers_figure
from pcvpt.analysis.layer_removal import layer_removals, require_layers
from pcvpt.cli.analyze.results import Results, print_table
from pcvpt.cli.analyze.trained_model import open_models


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    parser.add_argument(
        "--split", default="val", choices=("train", "val", "test"), help="Split. Default: val."
    )
    parser.add_argument(
        "--images", type=int, metavar="N",
        help="Number of images, rounded up to whole batches. Default: all.",
    )  # fmt: skip


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Measure the accuracies of one run, and write table and figure.

    Raises:
        UsageError: If there are several runs, a block has no prompts, or the split has no images.
    """
    (trained,) = open_models(options, further, all_prompts=True, single=True)
    with trained.named_in_errors():
        require_layers(trained.model)
    batches = trained.batches(options.split, options.images)
    results = Results(options.output or trained.folder, "layers", options.overwrite)
    found = layer_removals(trained.model, batches)
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
    results.write_table(rows)
    title = f"Accuracy of {trained.name} on {found.images:,} {options.split} images, in percent"
    results.write_figure(layers_figure(found, title))
    print_table(rows, title)
