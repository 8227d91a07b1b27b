"""The scores of prompts and the scopes of ranking against each other, at equal budget.

For every score: accuracy right after masking, not fine-tuned, and rank correlations with the other
ones. Scores see training images only. Looks at the end of prompt training (prompt-last) unless
--checkpoint names another. Several RUNs, that differ in their seeds, give means and deviations.
"""

import argparse
from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.figures.scores import Bar, bar_of, correlation_figure, worth_figure
from pcvpt.analysis.score_comparison import Scored, Worth, correlations, score_all, worth_of_scores
from pcvpt.cli.analyze.output import Output, Row, as_table
from pcvpt.cli.analyze.trained_model import Subject, naming, open_with_all_prompts
from pcvpt.condensation import Method
from pcvpt.condensation.selection import check_budget
from pcvpt.errors import UsageError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    parser.add_argument(
        "--keep", type=float, nargs="+", default=[0.1, 0.3, 0.5], metavar="F",
        help="fractions of the prompts; default: 0.1 0.3 0.5",
    )  # fmt: skip
    parser.add_argument("--split", default="val", choices=("val", "test"), help="of the accuracy")
    parser.add_argument("--methods", nargs="+", choices=get_args(Method), help="default: all")
    parser.add_argument("--images", type=int, metavar="N", help="to score with; default: all")
    parser.add_argument(
        "--exact_images", type=int, default=128, metavar="N",
        help="for exact removal, one forward pass for each prompt; 0 leaves it out; default: 128",
    )  # fmt: skip
    parser.add_argument(
        "--draws", type=int, default=5, metavar="N", help="random choices; default: 5"
    )


class _Found(NamedTuple):
    """What was measured of one run."""

    subject: Subject
    scored: Scored
    correlations: Tensor
    untouched: float
    worth: list[Worth]


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Compare the scores on one or more runs, and write tables and figures.

    Raises:
        UsageError: for runs without prompts or of different models, numbers out of their range, and
            an empty split.
    """
    for keep in options.keep:
        check_budget(keep, None)
    for name, value, least in (
        ("images", options.images, 1),
        ("exact_images", options.exact_images, 0),
        ("draws", options.draws, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"--{name} {value}; give at least {least}")
    subjects = [open_with_all_prompts(path, options.checkpoint, further) for path in options.runs]
    for subject in subjects:
        model = subject.model.to(options.device)
        with naming(subject):
            require_prompts(model)
            model.prompts.require_thawed()
        for split in ("train", options.split):
            subject.require_images(split)
    _require_alike(subjects)
    output = Output(options.output or subjects[0].folder, "scores", options.overwrite)
    found = [_measure(subject, options) for subject in subjects]
    output.table([row for one in found for row in _rows(one)])
    output.table([row for one in found for row in _pairs(one)], "correlation")
    output.table([row for one in found for row in _prompts(one)], "prompts")
    names, bars = list(found[0].scored), _bars(found)
    untouched = sum(one.untouched for one in found) / len(found)
    who = ", ".join(subject.name for subject in subjects[:3]) + ", ..." * (len(subjects) > 3)
    runs = f"mean ± deviation over {len(found)} runs" if len(found) > 1 else "one run"
    title = (
        f"Accuracy of {who} on {options.split} images right after masking by each score, not "
        f"fine-tuned; {runs}; the bar of random is of its draws, too"
    )
    output.figure(worth_figure(bars, untouched, title))
    mean = torch.stack([one.correlations for one in found]).mean(0)
    title = f"How alike the scores of {who} rank the prompts; {runs.replace(' ± deviation', '')}"
    output.figure(correlation_figure(mean, names, title), "correlation")
    output.show(as_table(_shown(bars, names, mean), f"All prompts: {untouched:.2f} %. {runs}"))


def _measure(subject: Subject, options: argparse.Namespace) -> _Found:
    model = subject.model

    def train(images: int | None) -> Iterable[tuple[Tensor, Tensor]]:
        return subject.batches("train", images)

    scored = score_all(
        model,
        lambda: train(options.images),
        (lambda: train(options.exact_images)) if options.exact_images else None,
        options.methods or get_args(Method),
        options.draws,
        lambda method: print(f"{subject.name}: scoring by {method}", flush=True),
    )
    print(f"{subject.name}: accuracies on {options.split}", flush=True)
    untouched, worth = worth_of_scores(model, scored, options.keep, subject.batches(options.split))
    return _Found(subject, scored, correlations(scored, model.prompts.keep), untouched, worth)


def _require_alike(subjects: Sequence[Subject]) -> None:
    """Refuse runs whose mean would be of different things."""
    kinds = {}
    for subject in subjects:
        model = subject.model
        plan = model.blueprint
        assert plan is not None  # create_model made it
        source = subject.data.source
        kinds[subject.name] = (plan.backbone, model.mode, *model.prompts.keep.shape, source)
    if len(set(kinds.values())) > 1:
        said = "; ".join(f"{name}: {', '.join(map(str, kind))}" for name, kind in kinds.items())
        raise UsageError(f"the runs differ in more than their seeds ({said}); give them one by one")


def _rows(one: _Found) -> list[Row]:
    said = {"run": one.subject.name, "accuracy_all_prompts": one.untouched}
    return [{**worth._asdict(), **said} for worth in one.worth]


def _pairs(one: _Found) -> list[Row]:
    names = list(one.scored)
    return [
        {"run": one.subject.name, "first": a, "second": b, "spearman": float(value)}
        for a, row in zip(names, one.correlations, strict=True)
        for b, value in zip(names, row, strict=True)
    ]


def _prompts(one: _Found) -> list[Row]:
    columns = {
        name + f"_{draw}" * (len(several) > 1): scores.tolist()
        for name, several in one.scored.items()
        for draw, scores in enumerate(several)
    }
    return [
        {
            "run": one.subject.name,
            "layer": layer,
            "prompt": prompt,
            **{name: values[layer][prompt] for name, values in columns.items()},
        }
        for layer, prompt in one.subject.model.prompts.keep.nonzero().tolist()
    ]


def _bars(found: Sequence[_Found]) -> dict[tuple[float, str, str], Bar]:
    values: dict[tuple[float, str, str], list[float]] = {}
    for one in found:
        for worth in one.worth:
            key = (worth.keep, worth.scope, worth.method)
            values.setdefault(key, []).append(worth.accuracy)
    return {key: bar_of(several) for key, several in values.items()}


def _shown(
    bars: dict[tuple[float, str, str], Bar], names: Sequence[str], mean: Tensor
) -> list[Row]:
    exact = names.index("|leave_one_out|") if "|leave_one_out|" in names else None
    rows: list[Row] = []
    for i, name in enumerate(names):
        row: dict[str, object] = {"score": name}
        if exact is not None:
            row["rank_correlation_with_|exact_removal|"] = float(mean[i, exact])
        for (keep, scope, method), bar in bars.items():
            if method == name:
                spread = "" if bar.values == 1 else f" ± {bar.deviation:.1f}"
                row[f"{100 * keep:g}_%, {scope}"] = f"{bar.mean:.1f}{spread}"
        rows.append(row)
    return rows
