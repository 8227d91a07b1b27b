"""Share of attention that a few eigenvalues hold, by number of prompts.

The default checkpoint is the end of prompt training (prompt-last). For one RUN there is a curve
without prompts, and with a quarter, half and all of the prompts of each block, or with the numbers
of --prompts. The prompts are the best by the scores of the run, or the first ones where there are
no scores. The figure has one curve for each RUN, or one for each number of --prompts.
"""

import argparse
from collections.abc import Sequence
from statistics import geometric_mean

import torch
from torch import Tensor

from pcvpt.analysis.attention_spectrum import (
    are_scores,
    attention_spectrum,
    best_of_each_layer,
    check_share,
    over_blocks,
    rank_for,
    require_tokens,
)
from pcvpt.analysis.figures.spectrum import Spectrum, spectrum_figure
from pcvpt.analysis.tables import Row, print_table
from pcvpt.cli.analyze.images import Sample, images_of_split
from pcvpt.cli.analyze.results import Results, rows_of
from pcvpt.cli.analyze.trained_model import TrainedModel, open_models
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.models.swin import PromptedSwinTransformer


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    add = parser.add_argument
    text = "Numbers of prompts of each block; 0 for none. The default is named above."
    add("--prompts", type=int, nargs="+", metavar="K", help=text)
    add("--values", default="eigen", choices=("eigen", "singular"), help="Kind. Default: eigen.")
    text = "Share of the spectrum for which the rank is found, in (0, 1]. Default: 0.9."
    add("--share", type=float, default=0.9, help=text)
    add("--images", type=int, default=16, metavar="N", help="Number of images. Default: 16.")
    add("--split", default="val", choices=("train", "val", "test"), help="Split. Default: val.")


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Measure the spectra of one or more runs, and write tables and figure."""
    check_share(options.share)
    opened = open_models(options, further, all_prompts=True)
    for trained in opened:
        with trained.named_in_errors():
            require_tokens(trained.model)
    masks = [_masks(trained, options.prompts, len(opened) == 1) for trained in opened]
    samples = [images_of_split(trained, options.split, options.images) for trained in opened]
    results = Results(options.output or opened[0].folder, "spectrum", options.overwrite)
    spectra: list[Spectrum] = []
    curves: list[Row] = []
    ranks: list[Row] = []
    for trained, by_count, sample in zip(opened, masks, samples, strict=True):
        for count, mask in by_count.items():
            one, blocks = _measure(trained, mask, sample, options)
            total, which = sum(int(row.sum()) for row in mask), f"{count} per block"
            if total != count * len(mask):
                which = f"{total} in {len(mask)} blocks"
            spectra.append(one._replace(label=f"{trained.name}: " * (len(opened) > 1) + which))
            run_and_count = {"run": trained.name, "prompts_per_block": count}
            ranks += [{**run_and_count, **block} for block in blocks]
            curves += rows_of(
                **run_and_count,
                values_counted=list(range(1, 1 + len(one.mean))),
                share=one.mean.tolist(),
                deviation=one.deviation.tolist(),
            )
    results.write_table(curves)
    results.write_table(ranks, "rank")
    swin = any(isinstance(trained.model, PromptedSwinTransformer) for trained in opened)
    title = (
        f"Attention of {', '.join(dict.fromkeys(t.name for t in opened))}: mean ± deviation over "
        f"blocks and heads; mean over {len(samples[0].names)} {options.split} images"
        + ", and of Swin over windows"
        * swin
    )
    results.write_figure(spectrum_figure(spectra, options.share, options.values, title))
    columns = {
        "prompts": [one.label for one in spectra],
        "tokens_and_prompts": [one.length for one in spectra],
        f"rank_for_{100 * options.share:g}_%": [one.rank for one in spectra],
        "deviation": [one.rank_deviation for one in spectra],
    }
    print_table(rows_of(**columns), title)


def _masks(
    trained: TrainedModel, counts: Sequence[int] | None, alone: bool
) -> dict[int, list[Tensor]]:
    """Return the mask of each curve of one run, by the number of prompts of each block."""
    model, scores = trained.model, trained.scores()
    most = max(model.prompts.counts())
    if counts is None:
        counts = sorted({0, most // 4, most // 2, most}) if alone else [most]
    if not are_scores(scores, model.prompts.keep):
        print(f"{trained.name}: no scores here; the first prompts of each block are taken")
    with trained.named_in_errors():
        return {count: best_of_each_layer(model, count, scores) for count in counts}


def _measure(
    trained: TrainedModel, mask: Sequence[Tensor], sample: Sample, options: argparse.Namespace
) -> tuple[Spectrum, list[Row]]:
    """Return the spectrum of one mask, still without a label, and the ranks of each block."""
    with evaluating(trained.model):
        trained.model.prompts.apply_mask(list(mask))
        spectra = attention_spectrum(trained.model, sample.images, options.values)
    needed = [rank_for(curves, options.share).double() for curves in spectra]
    lengths = [curves.shape[1] for curves in spectra]
    blocks = rows_of(
        block=list(range(len(spectra))),
        tokens_and_prompts=lengths,
        rank=[float(rank.mean()) for rank in needed],
        deviation_over_heads=[float(rank.std(unbiased=False)) for rank in needed],
    )
    joint = torch.cat(needed)
    rank, deviation = float(joint.mean()), float(joint.std(unbiased=False))
    return Spectrum("", geometric_mean(lengths), *over_blocks(spectra), rank, deviation), blocks
