"""The page ``report.html`` of a run, and one page that compares several runs.

What needs the model is drawn once, when the page is first written. Later it is taken from there.
"""

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from pcvpt.analysis.attention import prompt_maps, strongest
from pcvpt.analysis.attention_spectrum import are_scores
from pcvpt.analysis.figures.accuracy import epochs_figure
from pcvpt.analysis.figures.attention import maps_figure
from pcvpt.analysis.figures.predictions import confusion_figure, sample_figure
from pcvpt.analysis.figures.prompt_maps import assignment_figure, kept_figure, score_figure
from pcvpt.analysis.figures.style import address_of
from pcvpt.analysis.stages import TEMPLATES, answer, stages
from pcvpt.data.transforms import Preprocessing
from pcvpt.models.swin import PromptedSwinTransformer
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.runs.atomic import write_text
from pcvpt.runs.folder import CONFIG, ENVIRONMENT, REPORT, RESULTS, read_epochs, read_json, title_of

_SHOWN = 8  # images
_MAPPED = 4  # of them, with maps of attention
_DRAWN = re.compile(r"<!-- drawn -->(.*)<!-- /drawn -->", re.S)


def write_report(path: Path, runs: Sequence[Path], drawn: str = "") -> None:
    """Write the page of finished ``runs`` to ``path``.

    ``drawn`` is of :func:`draw_model` for a new run. Else it is taken from the pages of the runs.
    """
    told, epochs = [], {}
    for run in runs:
        start = read_json(run / ENVIRONMENT)["starts"][0]
        epochs[title_of(run)] = read_epochs(run)
        config = (run / CONFIG).read_text(encoding="utf-8")
        told.append(
            {
                "title": title_of(run),
                "results": read_json(run / RESULTS),
                "stages": stages(run),
                "start": start,
                "command": shlex.join(["pcvpt", *start["command"][1:]]),
                "config": config,
                "model": yaml.safe_load(config)["model"],
                "drawn": drawn or drawn_of(run),
            }
        )
    curve = address_of(lambda: epochs_figure(epochs))
    page = TEMPLATES.get_template("report.html.jinja")
    write_text(path, page.render(runs=told, answer=answer(runs), curve=curve) + "\n")


def drawn_of(run: Path) -> str:
    """Return what the page of ``run`` shows of its model; "" without a page."""
    page = run / REPORT
    found = _DRAWN.search(page.read_text(encoding="utf-8")) if page.is_file() else None
    return found[1] if found else ""


def draw_model(
    model: PromptedTransformer,
    batches: Iterable[Sequence[Tensor]],
    names: Sequence[str],
    steps: Preprocessing,
) -> str:
    """Return the part of the page that needs the model, as HTML.

    Args:
        model: Model at the end of its run.
        batches: Normalised images ``(b, 3, h, w)`` of val on its device, their labels, the
            predicted classes and the probabilities of these, each ``(b,)``.
        names: Names of the classes.
        steps: Preprocessing of the images.
    """
    parts = []
    for title, note, form, draw in _pictures(model, batches, names, steps):
        picture = f'<img alt="{title}" src="{address_of(draw, form)}">'
        parts.append(f"<section><h3>{title}</h3><p>{note}</p>{picture}</section>\n")
    return "".join(parts)


def _pictures(
    model: PromptedTransformer,
    batches: Iterable[Sequence[Tensor]],
    names: Sequence[str],
    steps: Preprocessing,
) -> Iterator[tuple[str, str, str, Any]]:
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    wrong: list[tuple[float, tuple[Tensor, int, int]]] = []
    shown: list[tuple[Tensor, int, int]] = []
    for images, *answers in batches:
        rows = zip(images, *(part.tolist() for part in answers), strict=True)
        for image, label, guess, certainty in rows:
            if label < 0:  # padding of several processes
                continue
            counts[label, guess] += 1
            if len(shown) < _SHOWN and counts[label].sum() <= math.ceil(_SHOWN / len(names)):
                shown.append((image, label, guess))
            if label != guess:
                wrong.append((certainty, (image, label, guess)))
        wrong = sorted(wrong, key=lambda one: -one[0])[:_SHOWN]

    def sample(rows: Sequence[tuple[Tensor, int, int]]) -> Any:
        images, labels, guesses = zip(*rows, strict=True)
        pixels = (255 * steps.unnormalized(torch.stack(images).cpu())).byte()
        return lambda: sample_figure(pixels, torch.tensor(labels), torch.tensor(guesses), names)

    if not shown:
        return
    yield "Images", "As the model sees them, with what it takes them for.", "jpeg", sample(shown)
    note = "Numbers of images of val by class and prediction."
    yield "Confusion", note, "svg", lambda: confusion_figure(counts, names)
    if wrong:
        note = "Wrong predictions of which the model is most certain, the most certain one first."
        yield "Mistakes", note, "jpeg", sample([row for _, row in wrong])
    bank = model.prompts
    if not bank.keep.numel():
        return
    keep, scores, merged = bank.keep.cpu(), bank.scores.detach().cpu(), bank.assignment
    if merged is not None:
        groups, left = merged.cpu(), bank.counts()
        yield "Merged", "Which prompts became one.", "svg", lambda: assignment_figure(groups, left)
    else:
        yield "Kept", "Prompts that are left.", "svg", lambda: kept_figure(keep)
    if bool(scores.isfinite().any()):
        note = "What each prompt counts before condensing."
        yield "Scores", note, "svg", lambda: score_figure(scores)
    if isinstance(model, PromptedSwinTransformer) or not keep.any():
        return
    ranked = scores if merged is None and are_scores(scores, keep) else torch.ones(keep.shape)
    chosen = strongest(ranked, keep, 3)
    images = torch.stack([image for image, *_ in shown[:_MAPPED]])
    maps = prompt_maps(model, images, chosen)
    titles = [str(names[label]) for _, label, _ in shown[:_MAPPED]]
    pixels = steps.unnormalized(images.cpu())
    title = "Attention between patches and prompts (block.prompt)"
    note = "Where three of the kept prompts look: those of the highest scores, or the first ones."
    yield "Attention", note, "jpeg", lambda: maps_figure(pixels, titles, maps, chosen, title)
