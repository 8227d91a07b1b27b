"""Comparison of prompt scores: accuracy at equal budget, and rank correlations.

For each score and each scope of ranking: accuracy right after masking, without fine-tuning; and
the rank correlation with each other score. Scores are computed on training images only. The
default checkpoint is the end of prompt training (prompt-last). Several RUNs, which differ in their
seeds alone, give means and deviations.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product
from statistics import fmean, stdev
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from pcvpt.analysis.figures.scores import correlation_figure, masked_accuracy_figure
from pcvpt.analysis.score_comparison import (
    ABSOLUTE,
    MaskedAccuracy,
    Scored,
    accuracies_by_score,
    accuracies_of_merging,
    correlations,
    score_all,
)
from pcvpt.analysis.tables import Row, print_table
from pcvpt.cli.analyze.results import Results
from pcvpt.cli.analyze.trained_model import TrainedModel, open_models
from pcvpt.condensation import Method, evenly
from pcvpt.condensation.selection import check_budget
from pcvpt.errors import UsageError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    add = parser.add_argument
    text = "Fractions of the prompts to keep. Default: 0.1 0.3 0.5."
    add("--keep", type=float, nargs="+", default=[0.1, 0.3, 0.5], metavar="F", help=text)
    text = "Split on which accuracy is measured. Default: val."
    add("--split", default="val", choices=("val", "test"), help=text)
    text = f"Scores to compare: {', '.join(get_args(Method))}. Default: all."
    add("--methods", nargs="+", choices=get_args(Method), metavar="SCORE", help=text)
    text = "Number of training images to score with, rounded up to whole batches. Default: all."
    add("--images", type=int, metavar="N", help=text)
    text = (
        "Number of training images for exact removal, which takes one forward pass for each "
        "prompt; 0 leaves it out. Default: 128."
    )
    add("--exact_images", type=int, default=128, metavar="N", help=text)
    add("--draws", type=int, default=5, metavar="N", help="Number of random choices. Default: 5.")


class _Comparison(NamedTuple):
    """The scores of one run compared."""

    trained: TrainedModel
    scored: Scored
    correlations: Tensor
    untouched: float
    masked: list[MaskedAccuracy]


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Compare the scores on one or more runs, and write tables and figures."""
    for keep in options.keep:
        check_budget(keep, None)
    opened = open_models(options, further, all_prompts=True)
    for trained in opened:
        for split in ("train", options.split):
            trained.require_images(split)
    _require_alike(opened)
    results = Results(options.output or opened[0].folder, "scores", options.overwrite)
    found = [_compare(trained, options) for trained in opened]
    names = list(found[0].scored)
    worth: dict[tuple[float, str, str], list[float]] = {}
    for masked in (masked for one in found for masked in one.masked):
        worth.setdefault((masked.keep, masked.scope, masked.method), []).append(masked.accuracy)
    rows = [
        {**masked._asdict(), "run": one.trained.name, "accuracy_all_prompts": one.untouched}
        for one in found
        for masked in one.masked
    ]
    results.write_table(rows)
    pairs = [
        {"run": one.trained.name, "first": a, "second": b, "spearman": float(value)}
        for one in found
        for (a, b), value in zip(product(names, names), one.correlations.flatten(), strict=True)
    ]
    results.write_table(pairs, "correlation")
    results.write_table([row for one in found for row in _prompts(one)], "prompts")
    untouched = sum(one.untouched for one in found) / len(found)
    who = ", ".join(trained.name for trained in opened[:3]) + ", ..." * (len(opened) > 3)
    runs = f"mean ± deviation over {len(found)} runs" if len(found) > 1 else "one run"
    title = (
        f"Accuracy of {who} on {options.split} images right after masking by each score, not "
        f"fine-tuned; {runs}; the bar of random is of its draws, too"
    )
    results.write_figure(masked_accuracy_figure(worth, untouched, title))
    mean = torch.stack([one.correlations for one in found]).mean(0)
    title = f"Rank correlation between the scores of {who}; {runs.replace(' ± deviation', '')}"
    results.write_figure(correlation_figure(mean, names, title), "correlation")
    print_table(_short_rows(worth, names, mean), f"All prompts: {untouched:.2f} %. {runs}")


def _compare(trained: TrainedModel, options: argparse.Namespace) -> _Comparison:
    model, name = trained.model, trained.name
    scored = score_all(
        model,
        partial(trained.batches, "train", options.images),
        partial(trained.batches, "train", options.exact_images) if options.exact_images else None,
        options.methods or get_args(Method),
        options.draws,
        lambda method: print(f"{name}: scoring by {method}", flush=True),
    )
    print(f"{name}: accuracies on {options.split}", flush=True)
    measured = partial(trained.batches, options.split)
    untouched, masked = accuracies_by_score(model, scored, options.keep, measured())
    images = options.images or len(trained.data.splits.train)
    by = evenly(trained.batches("train", options.images), images)
    masked += accuracies_of_merging(model, by, options.keep, measured)
    return _Comparison(trained, scored, correlations(scored, model.prompts.keep), untouched, masked)


def _require_alike(opened: Sequence[TrainedModel]) -> None:
    """Raise a UsageError for runs whose mean would be over different models or data."""
    kinds = {}
    for trained in opened:
        model = trained.model
        plan = model.blueprint
        assert plan is not None  # create_model made it
        source = trained.data.source
        kinds[trained.name] = (plan.backbone, model.mode, *model.prompts.keep.shape, source)
    if len(set(kinds.values())) > 1:
        listed = "; ".join(f"{name}: {', '.join(map(str, kind))}" for name, kind in kinds.items())
        raise UsageError(f"runs differ in more than their seeds ({listed}); give them one by one")


def _prompts(one: _Comparison) -> list[Row]:
    columns = {
        name + f"_{draw}" * (len(several) > 1): scores
        for name, several in one.scored.items()
        for draw, scores in enumerate(several)
    }
    return [
        {
            "run": one.trained.name,
            "layer": layer,
            "prompt": prompt,
            **{name: float(scores[layer, prompt]) for name, scores in columns.items()},
        }
        for layer, prompt in one.trained.model.prompts.keep.nonzero().tolist()
    ]


def _short_rows(
    worth: dict[tuple[float, str, str], list[float]], names: Sequence[str], mean: Tensor
) -> list[Row]:
    exact = names.index(ABSOLUTE) if ABSOLUTE in names else None
    rows: list[Row] = []
    for i, name in enumerate([*names, "merge"]):
        row: dict[str, object] = {"score": name}
        if exact is not None and i < len(names):
            row["rank_correlation_with_|exact_removal|"] = float(mean[i, exact])
        for (keep, scope, method), found in worth.items():
            if method == name:
                spread = f" ± {stdev(found):.1f}" if len(found) > 1 else ""
                row[f"{100 * keep:g}_%, {scope}"] = f"{fmean(found):.1f}{spread}"
        rows.append(row)
    return rows
