"""The fits of which the curve of one run consists, and the accuracies that they give."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import yaml

from pcvpt.analysis.curve import Point
from pcvpt.cli.analyze.fits import Fit
from pcvpt.cli.analyze.trained_model import ALL_PROMPTS
from pcvpt.errors import UsageError
from pcvpt.runs.folder import CHECKPOINTS, CONFIG, RESULTS, find_run, is_finished, title_of
from pcvpt.training.phases import named

Accuracy = Callable[[Path, str, float], float]
"""Accuracy in percent of a run's checkpoint, given the run, the checkpoint and that on val."""

# Callbacks that show or export, which a fit of an analysis does not need.
_NOT_NEEDED = ("PhaseProgressBar", "PromptInspector", "AdapterWriter")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run whose prompts are condensed to other numbers, with its results.json."""

    folder: Path
    name: str
    config: dict[str, Any]
    results: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        """Checkpoint at the end of prompt training."""
        return self.folder / CHECKPOINTS / f"{ALL_PROMPTS}.ckpt"


Choice = Literal["score", "random", "scratch"]
"""How prompts are chosen; "scratch" is a fit that trains fewer prompts from the beginning."""


class CurveFit(NamedTuple):
    """A fit of a curve, which measures the fractions ``keep`` of all prompts."""

    fit: Fit
    chosen: Choice
    keep: tuple[float, ...]
    finetune: bool


def open_finished(path: str) -> FinishedRun:
    """Read the run in the folder ``path``.

    Raises:
        UsageError: If it is an adapter, not finished, or a linear probe.
    """
    if path.endswith(".safetensors"):
        raise UsageError(f"{path}: an adapter can't be trained on; give the folder of its run")
    folder = find_run(path)
    if not is_finished(folder):
        raise UsageError(f"{folder}: not finished yet; `pcvpt fit --resume` resumes it")
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    run = FinishedRun(folder, title_of(folder), config, results)
    if not results.get("prompts"):
        raise UsageError(f"{folder}: a linear probe has no prompts to keep; give a run with some")
    if not run.checkpoint.is_file():
        raise UsageError(f"{run.checkpoint} is missing; without it nothing can be condensed")
    return run


def fits_of(
    run: FinishedRun,
    folder: Path,
    keep: Sequence[float],
    finetune: bool = True,
    random: bool = False,
    scratch: Mapping[float, int] = MappingProxyType({}),
    options: Sequence[str] = (),
) -> list[CurveFit]:
    """Return the fits of the curve of ``run``, in folders within ``folder``.

    Prompts are condensed to the ascending fractions ``keep``, by ``random`` choice too, and each
    of them is fine-tuned or masked only. ``scratch`` has fractions to train from scratch, with
    their numbers of prompts per layer. ``options`` are further ones of ``pcvpt fit``.
    """
    condense = run.config["condense"]
    place = folder / re.sub(r"[^\w.-]+", "-", run.name)
    # Everything else stays as it is in the run.
    callbacks = [
        callback
        for callback in run.config["trainer"].get("callbacks") or []
        if callback["class_path"].rpartition(".")[2] not in _NOT_NEEDED
    ]
    common = (
        *options,
        *("--trainer.callbacks", json.dumps(callbacks)),
        *("--trainer.logger", "true"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--condense.count", "null", "--condense.max_drop", "null"),
    )

    fits = []

    def add(chosen: Choice, name: str, keep: Sequence[float], epochs: int, *own: str) -> None:
        start = None if chosen == "scratch" else run.checkpoint
        fit = Fit(place / name, run.folder / CONFIG, (*common, *own), start, epochs)
        fits.append(CurveFit(fit, chosen, tuple(keep), finetune and chosen != "scratch"))

    seed = str(int(run.config.get("seed_everything") or 0))
    choices: dict[Choice, tuple[Sequence[float], tuple[str, ...]]] = {
        "score": (keep, ()),
        "random": (  # all prompts leave nothing to choose
            [fraction for fraction in keep if random and fraction < 1],
            ("--condense.score", "random", "--condense.seed", seed),
        ),
    }
    for chosen, (fractions, own) in choices.items():
        if fractions:
            kind = {"score": "condensed", "random": "random"}[chosen] + "-masked" * (not finetune)
            name = "-".join([kind, *(f"{fraction:g}" for fraction in fractions)])
            epochs = int(condense["finetune_epochs"]) * len(fractions) * finetune
            keys = ("--condense.keep", json.dumps(list(fractions)), "--condense.finetune_keep")
            add(chosen, name, fractions, epochs, *keys, "null" if finetune else "[]", *own)
    for fraction, count in scratch.items():
        if fraction < 1:  # all prompts are the run itself
            keys = ("--condense.keep", "null", "--condense.finetune_keep")
            epochs, own = int(condense["prompt_epochs"]), ("--model.num_prompts", str(count))
            add("scratch", f"scratch-{count}", [fraction], epochs, *keys, "null", *own)
    return fits


def points_of(
    run: FinishedRun, fits: Sequence[CurveFit], full: float, accuracy: Accuracy
) -> Iterator[Point]:
    """Yield the points of all series, from ``fits`` of :func:`fits_of`, all of them finished.

    Accuracy in percent with all prompts is ``full``; ``accuracy`` gives that of a checkpoint.
    """
    for one in fits:
        folder = one.fit.finished()
        assert folder is not None
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        if one.chosen == "scratch":
            value = accuracy(folder, ALL_PROMPTS, results["accuracy_before"])
            yield Point("from scratch", run.name, one.keep[0], results["prompts"], value)
            continue
        random = "random, " * (one.chosen == "random")
        several = len(one.keep) > 1
        for entry in results["budgets"] if several else [{**results, "keep": one.keep[0]}]:
            keep, count = float(entry["keep"]), sum(entry["kept"])
            budget = str(keep) if several else ""
            value = accuracy(folder, named("masked", budget), entry["accuracy_masked"])
            yield Point(f"{random}masked only", run.name, keep, count, value)
            if one.finetune:
                stem = f"{named('finetune', budget)}-last"
                value = accuracy(folder, stem, entry["accuracy_finetuned"])
                yield Point(f"{random}fine-tuned", run.name, keep, count, value)
    if any(one.chosen == "scratch" for one in fits):
        yield Point("from scratch", run.name, 1.0, run.results["prompts"], full)
