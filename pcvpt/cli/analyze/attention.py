"""Where prompts look, who looks at them, and rollouts over images.

Looks at the condensed best unless --checkpoint names another. Of Swin, whose attention ends at its
windows, there is only the attention that prompts receive.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcvpt.analysis.attention import (
    Rollout,
    prompt_maps,
    rollout,
    strongest,
)
from pcvpt.analysis.attention_matrices import require_prompts
from pcvpt.analysis.attention_spectrum import are_scores
from pcvpt.analysis.figures.attention import maps_figure, mass_figure, rollout_figure
from pcvpt.analysis.forward_pass import attention_to_prompts, reads_class_token
from pcvpt.cli.analyze.images import Sample, class_names, of_files, of_split
from pcvpt.cli.analyze.output import Output, Row, as_table
from pcvpt.cli.analyze.trained_model import Subject, naming, one_run, open_subject, scores_of
from pcvpt.errors import UsageError
from pcvpt.models.swin import PromptedSwinTransformer

_AT_ONCE = 8  # images; whole attention matrices are in memory


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this analysis."""
    parser.add_argument("--images", type=Path, metavar="PATH", help="an image, or a folder of some")
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument(
        "--sample", type=int, default=32, metavar="N", help="images of the split; default: 32"
    )
    parser.add_argument("--show", type=int, default=4, metavar="N", help="images drawn; default: 4")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="prompts drawn; default: 3")


def run(options: argparse.Namespace, further: Sequence[str]) -> None:
    """Look at the attention of one run or adapter, and write tables and figures.

    Raises:
        UsageError: for several runs, one without prompts, numbers below 1, and images that are
            missing or can't be decoded.
    """
    for name in ("show", "top"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)}; give at least 1")
    subject = open_subject(one_run(options, "attention"), options.checkpoint, further)
    model = subject.model.to(options.device)
    with naming(subject):
        require_prompts(model)
        model.prompts.require_thawed()
    if options.images is None:
        sample = of_split(subject, options.split, options.sample)
    else:
        sample = of_files(subject, options.images)
    output = Output(options.output or subject.folder, "attention", options.overwrite)
    swin = isinstance(model, PromptedSwinTransformer)
    reader = "class token" if reads_class_token(model) else "patches"
    mass = _mean_mass(subject, sample)
    traced = [] if swin else [rollout(model, part) for part in _parts(sample)]
    output.table(_prompt_rows(subject, mass, traced))
    number = len(sample.names)
    about = f"of {subject.name}, mean over {number} image{'s' * (number > 1)}"
    title = f"Attention that prompts receive from the {reader} {about} and heads"
    output.figure(mass_figure(mass, reader, title + " and windows" * swin), "mass")
    if swin:
        print("Swin: no maps and no rollouts, as its attention ends at windows; the mass alone.")
    else:
        rows = _image_rows(subject, sample, traced)
        output.table(rows, "images")
        _draw(subject, sample, mass, traced, rows, options, output)
    shares = [
        {"block": block, "prompts": count, "attention_to_prompts_%": 100 * share}
        for block, (count, share) in enumerate(
            zip((~mass.isnan()).sum(1).tolist(), mass.nansum(1).tolist(), strict=True)
        )
    ]
    output.show(as_table(shares, title))


def _parts(sample: Sample) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = sample.images.split(_AT_ONCE)
    return parts


def _mean_mass(subject: Subject, sample: Sample) -> Tensor:
    """Return the attention that each prompt receives ``(blocks, p)``, mean over the images."""
    shares = [
        attention_to_prompts(subject.model, _placed(subject, part)) * len(part)
        for part in _parts(sample)
    ]
    return torch.stack(shares).double().sum(0) / len(sample.images)


def _placed(subject: Subject, images: Tensor) -> Tensor:
    """Return ``images`` where the model is, in its precision."""
    bank = subject.model.prompts
    return images.to(bank.device, bank.dtype)


def _prompt_rows(subject: Subject, mass: Tensor, traced: Sequence[Rollout]) -> list[Row]:
    """Return a row for each kept prompt of each block."""
    bank, scores = subject.model.prompts, scores_of(subject)
    shallow = subject.model.mode == "shallow"
    entered = torch.cat([part.prompts for part in traced]).mean(0) if traced else None
    rows: list[Row] = []
    for block, prompt in (~mass.isnan()).nonzero().tolist():
        layer = 0 if shallow else block
        row: dict[str, object] = {
            "block": block,
            "prompt": prompt,
            "attention_received": float(mass[block, prompt]),
        }
        if entered is not None and layer == block:
            row["rollout_share"] = float(entered[layer, prompt])
        if are_scores(scores, bank.keep):
            row["score"] = float(scores[layer, prompt])
        rows.append(row)
    return rows


def _image_rows(subject: Subject, sample: Sample, traced: Sequence[Rollout]) -> list[Row]:
    """Return a row for each image."""
    names = class_names(subject)

    def named(label: int) -> object:
        return names[label] if names is not None else label

    logits = [_logits(subject, part) for part in _parts(sample)]
    guesses = [guess for part in logits for guess in part.argmax(1).tolist()]
    shares = [float(image.sum()) for part in traced for image in part.prompts]
    return [
        {
            "image": name,
            **({"label": named(label)} if label >= 0 else {}),
            "predicted": named(guess),
            "rollout_share_of_prompts": share,
        }
        for name, label, guess, share in zip(
            sample.names, sample.labels, guesses, shares, strict=True
        )
    ]


@torch.no_grad()
def _logits(subject: Subject, images: Tensor) -> Tensor:
    logits: Tensor = subject.model.forward(_placed(subject, images))
    return logits


def _draw(
    subject: Subject,
    sample: Sample,
    mass: Tensor,
    traced: Sequence[Rollout],
    rows: Sequence[Row],
    options: argparse.Namespace,
    output: Output,
) -> None:
    """Draw maps and rollouts over the first images."""
    model, bank = subject.model, subject.model.prompts
    images, pictures = sample.images[: options.show], sample.pictures(options.show)
    captions = [f"{row['image']}\n→ {row['predicted']}" for row in rows[: options.show]]
    scores, ranked = scores_of(subject).cpu(), "scores"
    if not are_scores(scores, bank.keep):
        scores, ranked = mass if model.mode == "deep" else mass.mean(0, keepdim=True), "attention"
    chosen = strongest(scores, bank.keep.cpu(), options.top)
    title = (
        f"Attention between patches and the {len(chosen)} prompts (block.prompt) of the highest "
        f"{ranked}, {subject.name}"
    )
    output.figure(
        maps_figure(pictures, captions, prompt_maps(model, images, chosen), chosen, title), "maps"
    )
    reader = "class token" if reads_class_token(model) else "mean over patches"
    output.figure(
        rollout_figure(
            pictures,
            captions,
            rollout(model, images),
            rollout(model, images, prompts=False),
            f"Attention rollout of the {reader}, {subject.name}: (A + I)/2 multiplied over blocks",
        ),
        "rollout",
    )
