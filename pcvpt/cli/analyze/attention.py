"""Attention between prompts and patches, and rollouts over images.

The default checkpoint is the best one after condensation. For Swin, whose attention is limited to
windows, there is only the attention that each prompt receives.
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from pcvpt.analysis.attention import Rollout, prompt_maps, rollout, strongest
from pcvpt.analysis.attention_spectrum import are_scores
from pcvpt.analysis.figures.attention import maps_figure, received_figure, rollout_figure
from pcvpt.analysis.forward_pass import attention_to_prompts, reads_class_token
from pcvpt.analysis.tables import Row, print_table
from pcvpt.cli.analyze.images import Sample, images_of_files, images_of_split
from pcvpt.cli.analyze.results import Results, rows_of
from pcvpt.cli.analyze.trained_model import TrainedModel, open_models
from pcvpt.models.swin import PromptedSwinTransformer

_AT_ONCE = 8  # images, because the attention matrices of all their blocks are in memory


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    add = parser.add_argument
    add("--images", metavar="PATH", help="An image, a folder of images, or a list .txt of paths.")
    splits = ("train", "val", "test")
    add("--split", default="val", choices=splits, help="Split, without --images. Default: val.")
    add("--sample", type=int, default=32, metavar="N", help="Images of the split. Default: 32.")
    add("--show", type=int, default=4, metavar="N", help="Number of images to draw. Default: 4.")
    add("--top", type=int, default=3, metavar="N", help="Number of prompts to draw. Default: 3.")


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Measure the attention of one run or adapter, and write tables and figures."""
    (trained,) = open_models(options, further, single=True)
    model = trained.model
    if options.images is None:
        sample = images_of_split(trained, options.split, options.sample)
    else:
        sample = images_of_files(trained, options.images)
    results = Results(options.output or trained.folder, "attention", options.overwrite)
    swin = isinstance(model, PromptedSwinTransformer)
    reader = "class token" if reads_class_token(model) else "patches"
    place = model.prompts.device, model.prompts.dtype
    parts = [part.to(*place) for part in sample.images.split(_AT_ONCE)]
    received = sum(attention_to_prompts(model, part).double() * len(part) for part in parts)
    received = torch.as_tensor(received / len(sample.images))
    traced = [] if swin else [rollout(model, part) for part in parts]
    results.write_table(_prompt_rows(trained, received, traced))
    number = len(sample.names)
    over = f"of {trained.name}, mean over {number} image{'s' * (number > 1)}"
    title = f"Attention that prompts receive from the {reader} {over} and heads"
    results.write_figure(received_figure(received, reader, title + " and windows" * swin), "mass")
    if swin:
        print("Swin: no maps and no rollouts, because its attention is limited to windows.")
    else:
        rows = _image_rows(trained, sample, parts, traced)
        results.write_table(rows, "images")
        _draw(trained, sample, received, rows, options, results)
    columns = {
        "block": list(range(len(received))),
        "prompts": (~received.isnan()).sum(1).tolist(),
        "attention_to_prompts_%": (100 * received.nansum(1)).tolist(),
    }
    print_table(rows_of(**columns), title)


def _prompt_rows(trained: TrainedModel, received: Tensor, traced: Sequence[Rollout]) -> list[Row]:
    """Return a row for each kept prompt of each block."""
    bank, scores = trained.model.prompts, trained.scores()
    entered = torch.cat([part.prompts for part in traced]).mean(0) if traced else None
    rows: list[Row] = []
    for block, prompt in (~received.isnan()).nonzero().tolist():
        layer = block if trained.model.has_own_prompts else 0
        row: dict[str, object] = {
            "block": block,
            "prompt": prompt,
            "attention_received": float(received[block, prompt]),
        }
        if entered is not None and layer == block:
            row["rollout_share"] = float(entered[layer, prompt])
        if are_scores(scores, bank.keep):
            row["score"] = float(scores[layer, prompt])
        rows.append(row)
    return rows


def _image_rows(
    trained: TrainedModel, sample: Sample, parts: Sequence[Tensor], traced: Sequence[Rollout]
) -> list[Row]:
    with torch.no_grad():
        guesses = torch.cat([trained.model.forward(part).argmax(1) for part in parts]).tolist()
    shares = torch.cat([part.prompts for part in traced]).flatten(1).sum(1).tolist()
    # Classes whose names are not known have their numbers.
    known = (trained.task or trained.model.adapter).class_names
    names = known or range(1 + max(*guesses, *sample.labels))
    labels = {"label": [names[label] for label in sample.labels]} if min(sample.labels) >= 0 else {}
    return rows_of(
        image=sample.names,
        **labels,
        predicted=[names[guess] for guess in guesses],
        rollout_share_of_prompts=shares,
    )


def _draw(
    trained: TrainedModel,
    sample: Sample,
    received: Tensor,
    rows: Sequence[Row],
    options: argparse.Namespace,
    results: Results,
) -> None:
    model, bank = trained.model, trained.model.prompts
    images = sample.images[: options.show]
    pixels = sample.preprocessing.unnormalized(images)
    captions = [f"{row['image']}\n→ {row['predicted']}" for row in rows[: options.show]]
    scores, ranked = trained.scores().cpu(), "scores"
    if not are_scores(scores, bank.keep):
        deep = model.has_own_prompts
        scores, ranked = received if deep else received.mean(0, keepdim=True), "attention"
    chosen = strongest(scores, bank.keep.cpu(), options.top)
    title = (
        f"Attention between patches and the {len(chosen)} prompts (block.prompt) of the highest "
        f"{ranked}, {trained.name}"
    )
    maps = prompt_maps(model, images, chosen)
    results.write_figure(maps_figure(pixels, captions, maps, chosen, title), "maps")
    reader = "class token" if reads_class_token(model) else "mean over patches"
    title = f"Attention rollout of the {reader}, {trained.name}: (A + I)/2 multiplied over blocks"
    with_prompts, without = rollout(model, images), rollout(model, images, prompts=False)
    figure = rollout_figure(pixels, captions, with_prompts, without, title)
    results.write_figure(figure, "rollout")
