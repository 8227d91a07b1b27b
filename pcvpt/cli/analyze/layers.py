"""Accuracy without the prompts of each block, and with those of one block alone.

The default checkpoint is the end of prompt training (prompt-last).
"""

import argparse
from collections.abc import Sequence

from pcvpt.analysis.figures.layers import layers_figure
from pcvpt.analysis.layer_removal import layer_removals, require_layers
from pcvpt.analysis.tables import print_table
from pcvpt.cli.analyze.results import Results, rows_of
from pcvpt.cli.analyze.trained_model import open_models


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    add = parser.add_argument
    add("--split", default="val", choices=("train", "val", "test"), help="Split. Default: val.")
    add("--images", type=int, metavar="N", help="Number of images, in whole batches. Default: all.")


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Measure the accuracies of one run, and write table and figure."""
    (trained,) = open_models(options, further, all_prompts=True, single=True)
    with trained.named_in_errors():
        require_layers(trained.model)
    batches = trained.batches(options.split, options.images)
    results = Results(options.output or trained.folder, "layers", options.overwrite)
    found = layer_removals(trained.model, batches)
    rows = rows_of(
        block=list(range(len(found.kept))),
        prompts=found.kept,
        accuracy_without=found.without,
        accuracy_alone=found.only,
        accuracy_untouched=found.untouched,
        accuracy_no_prompts=found.none,
    )
    results.write_table(rows)
    title = f"Accuracy of {trained.name} on {found.images:,} {options.split} images, in percent"
    results.write_figure(layers_figure(found, title))
    print_table(rows, title)
