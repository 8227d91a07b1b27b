"""How much of attention a few eigenvalues hold, for several numbers of prompts.

Looks at the end of prompt training (prompt-last) unless --checkpoint names another. Of one RUN, the
curves are for no, a quarter, half and all of the prompts of each block, or for those of --prompts:
the best by the run's scores, or the first where there are none. Of several RUNs there is one curve
each, or one for each number of --prompts.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.attention_spectrum import (
    are_scores,
    attention_spectrum,
    best_of_each_layer,
    check_share,
    over_blocks,
    rank_for,
)
from pcvpt.analysis.figures.spectrum import Measured, spectrum_figure
from pcvpt.cli.analyze.images import Sample, of_split
from pcvpt.cli.analyze.output import Output, as_table
from pcvpt.cli.analyze.trained_model import Subject, naming, open_with_all_prompts, scores_of
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.models.swin import PromptedSwinTransformer


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    parser.add_argument(
        "--prompts", type=int, nargs="+", metavar="K", help="prompts of each block, 0 for none"
    )
    parser.add_argument(
        "--values", default="eigen", choices=("eigen", "singular"), help="default: eigen"
    )
    parser.add_argument(
        "--share", type=float, default=0.9, help="that the rank is for, in (0, 1]; default: 0.9"
    )
    parser.add_argument("--images", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Measure the spectra of one or more runs, and write table and figure.

    Raises:
        UsageError: for runs without prompts, numbers out of their range, and an empty split.
    """
    check_share(options.share)
    subjects = [open_with_all_prompts(path, options.checkpoint, further) for path in options.runs]
    models = [subject.model.to(options.device) for subject in subjects]
    plans = []
    for subject, model in zip(subjects, models, strict=True):
        with naming(subject):
            require_prompts(model)
            model.prompts.require_thawed()
            scores = scores_of(subject)
            counts = _counts(options.prompts, max(model.prompts.counts()), len(subjects) == 1)
            plans.append([(k, best_of_each_layer(model, k, scores)) for k in counts])
        if not are_scores(scores, model.prompts.keep):
            print(f"{subject.name}: no scores here; the first prompts of each block are taken")
    samples = [of_split(subject, options.split, options.images) for subject in subjects]
    output = Output(options.output or subjects[0].folder, "spectrum", options.overwrite)
    measured: list[Measured] = []
    curves: list[dict[str, object]] = []
    ranks: list[dict[str, object]] = []
    for subject, plan, sample in zip(subjects, plans, samples, strict=True):
        for count, mask in plan:
            label = _label(count, mask, subject.name if len(subjects) > 1 else "")
            said = {"run": subject.name, "prompts_per_block": count}
            one, blocks = _measure(subject, mask, sample, options, label)
            measured.append(one)
            ranks += [{**said, **block} for block in blocks]
            curves += [
                {**said, "values_counted": i + 1, "share": mean, "deviation": deviation}
                for i, (mean, deviation) in enumerate(zip(*map(_list, one.curve), strict=True))
            ]
    output.table(curves)
    output.table(ranks, "rank")
    number = len(samples[0].names)
    swin = any(isinstance(model, PromptedSwinTransformer) for model in models)
    windows = ", and of Swin over windows" * swin
    title = (
        f"Attention of {', '.join(dict.fromkeys(s.name for s in subjects))}: mean ± deviation over "
        f"blocks and heads; mean over {number} {options.split} images{windows}"
    )
    output.figure(spectrum_figure(measured, options.share, options.values, title))
    shown = [
        {
            "prompts": one.label,
            "tokens_and_prompts": one.length,
            f"rank_for_{100 * options.share:g}_%": one.rank,
            "deviation": one.rank_deviation,
        }
        for one in measured
    ]
    output.show(as_table(shown, title))


def _counts(asked: Sequence[int] | None, most: int, alone: bool) -> list[int]:
    """Return the prompt counts of the curves of one run."""
    if asked is not None:
        return list(dict.fromkeys(asked))
    return sorted({0, most // 4, most // 2, most}) if alone else [most]


def _label(count: int, mask: Sequence[torch.Tensor], name: str) -> str:
    total = sum(int(row.sum()) for row in mask)
    text = f"{count} per block" if total == count * len(mask) else f"{total} in {len(mask)} blocks"
    return f"{name}: {text}" if name else text


def _measure(
    subject: Subject,
    mask: Sequence[torch.Tensor],
    sample: Sample,
    options: argparse.Namespace,
    label: str,
) -> tuple[Measured, list[dict[str, Any]]]:
    """Return what one curve shows, and the ranks of each block."""
    with evaluating(subject.model):
        subject.model.prompts.apply_mask(list(mask))
        spectra = attention_spectrum(subject.model, sample.images, options.values)
    needed = [rank_for(curves, options.share).double() for curves in spectra]
    blocks = [
        {
            "block": block,
            "tokens_and_prompts": curves.shape[1],
            "rank": float(rank.mean()),
            "deviation_over_heads": float(rank.std(unbiased=False)),
        }
        for block, (curves, rank) in enumerate(zip(spectra, needed, strict=True))
    ]
    length = torch.tensor([float(curves.shape[1]) for curves in spectra]).log().mean().exp()
    joint = torch.cat(needed)
    one = Measured(
        label,
        float(length),
        over_blocks(spectra),
        float(joint.mean()),
        float(joint.std(unbiased=False)),
    )
    return one, blocks


def _list(values: torch.Tensor) -> list[float]:
    return [float(value) for value in values]
