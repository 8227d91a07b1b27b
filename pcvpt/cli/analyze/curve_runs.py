"""The fits that the curve of one run is made of, and the points that they give."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml

from pcvpt.analysis.curve import Point, prompts_from_scratch
from pcvpt.analysis.layer_removal import accuracies
from pcvpt.cli.analyze.fits import Fit
from pcvpt.cli.analyze.trained_model import ALL_PROMPTS, open_subject
from pcvpt.errors import UsageError
from pcvpt.runs.folder import CHECKPOINTS, CONFIG, RESULTS, find_run, is_finished, title_of
from pcvpt.training.phases import named

# What a fit of an analysis needs none of.
_SHOWING = ("PhaseProgressBar", "PromptInspector", "AdapterWriter")
_LOGGER = {
    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "runs"},  # set by --output_dir
}


@dataclass(frozen=True)
class Source:
    """A finished run whose prompts are condensed.

    Attributes:
        run: its folder.
        name: for tables.
        config: its whole configuration.
        results: what it measured.
    """

    run: Path
    name: str
    config: dict[str, Any]
    results: dict[str, Any]

    @property
    def mode(self) -> str:
        """Of its prompts: "deep" or "shallow"."""
        return str(self.config["model"]["mode"])

    @property
    def per_layer(self) -> int:
        """Prompts of each layer."""
        return int(self.config["model"]["num_prompts"])

    @property
    def prompts(self) -> int:
        """Prompts of all layers."""
        return int(self.results["prompts"])

    @property
    def checkpoint(self) -> Path:
        """The end of prompt training."""
        return self.run / CHECKPOINTS / f"{ALL_PROMPTS}.ckpt"


@dataclass(frozen=True)
class Wanted:
    """What a curve is to have.

    Attributes:
        keep: fractions to condense to, in order.
        finetune: fine-tune each of them.
        random: a random choice of as many, too.
        scratch: fractions to train from scratch.
        options: further ones of ``pcvpt fit``.
    """

    keep: Sequence[float]
    finetune: bool
    random: bool
    scratch: Sequence[float]
    options: Sequence[str] = ()


class Planned(NamedTuple):
    """A fit, and what it is for.

    Attributes:
        fit: itself.
        chosen: how its prompts are chosen: "score", "random", or "scratch".
        keep: fractions that it gives.
        finetune: whether it fine-tunes them.
    """

    fit: Fit
    chosen: Literal["score", "random", "scratch"]
    keep: tuple[float, ...]
    finetune: bool


def open_source(path: str) -> Source:
    """Read the run in the folder ``path``.

    Raises:
        UsageError: for an adapter, a run that is not finished, a linear probe, and where val is
            part of what is trained on.
    """
    if path.endswith(".safetensors"):
        raise UsageError(f"{path}: an adapter can't be trained on; give the folder of its run")
    run = find_run(path)
    if not is_finished(run):
        raise UsageError(f"{run}: not finished yet; `pcvpt fit --resume` goes on with it")
    config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    results = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    source = Source(run, title_of(run), config, results)
    if not source.results.get("prompts"):
        raise UsageError(f"{run}: a linear probe has no prompts to keep; give a run with prompts")
    if not source.checkpoint.is_file():
        raise UsageError(f"{source.checkpoint} is missing; without it nothing can be condensed")
    return source


def fits_of(source: Source, wanted: Wanted, folder: Path) -> list[Planned]:
    """Return the fits, each in its place below ``folder``.

    Raises:
        UsageError: for fractions that are no whole number of prompts.
    """
    condense = source.config["condense"]
    place = folder / re.sub(r"[^\w.-]+", "-", source.name)
    seed = int(source.config.get("seed_everything") or 0)
    # All else stays as it is in the run.
    callbacks = [
        callback
        for callback in source.config["trainer"].get("callbacks") or []
        if callback["class_path"].rpartition(".")[2] not in _SHOWING
    ]
    common = (
        *wanted.options,
        *("--trainer.callbacks", json.dumps(callbacks)),
        *("--trainer.logger", json.dumps(_LOGGER)),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--condense.count", "null", "--condense.max_drop", "null"),
    )

    def condensed(
        chosen: Literal["score", "random"], keep: Sequence[float], *options: str
    ) -> Planned:
        tuned = wanted.finetune
        kind = ("random" if chosen == "random" else "condensed") + "-masked" * (not tuned)
        fit = Fit(
            place / "-".join([kind, *(f"{fraction:g}" for fraction in keep)]),
            source.run / CONFIG,
            (
                *(*common, "--condense.keep", json.dumps(list(keep))),
                *("--condense.finetune_keep", "null" if tuned else "[]", *options),
            ),
            source.checkpoint,
            int(condense["finetune_epochs"]) * len(keep) * tuned,
        )
        return Planned(fit, chosen, tuple(keep), tuned)

    found = [condensed("score", wanted.keep)]
    fewer = [fraction for fraction in wanted.keep if fraction < 1]
    if wanted.random and fewer:  # of all prompts there is no choice
        how = ("--condense.score", "random", "--condense.seed", str(seed))
        found.append(condensed("random", fewer, *how))
    whole, refused = prompts_from_scratch(wanted.scratch, source.per_layer)
    if refused:
        said = ", ".join(f"{fraction:g}" for fraction in refused)
        raise UsageError(
            f"--scratch {said}: of the {source.per_layer} prompts per layer of {source.name}, that "
            "is no whole number of at least 1; give other fractions"
        )
    for fraction, count in whole.items():
        if fraction < 1:  # all of them is the run itself
            plain = ("--condense.keep", "null", "--condense.finetune_keep", "null")
            fit = Fit(
                place / f"scratch-{count}",
                source.run / CONFIG,
                (*common, *plain, "--model.num_prompts", str(count)),
                None,
                int(condense["prompt_epochs"]),
            )
            found.append(Planned(fit, "scratch", (fraction,), False))
    return found


class Reading:
    """Reads the points of finished fits: what they measured on val, or tests their checkpoints.

    Args:
        source: whose fits they are.
        split: "val" or "test".
        options: further ones of ``pcvpt fit``.
        device: for the test.
    """

    def __init__(
        self, source: Source, split: str, options: Sequence[str], device: torch.device
    ) -> None:
        self.source, self.split = source, split
        self.options, self.device = options, device

    def full(self) -> float:
        """Return the accuracy in percent with all prompts."""
        return self._value(self.source.run, ALL_PROMPTS, self.source.results["accuracy_before"])

    def points(self, planned: Sequence[Planned], full: float) -> Iterator[Point]:
        """Yield the points of all series.

        Args:
            planned: as of :func:`fits_of`, all of them finished.
            full: accuracy in percent with all prompts.
        """
        for one in planned:
            run = one.fit.finished()
            assert run is not None
            results = json.loads((run / RESULTS).read_text(encoding="utf-8"))
            if one.chosen == "scratch":
                value = self._value(run, ALL_PROMPTS, results["accuracy_before"])
                yield self._point("from scratch", one.keep[0], int(results["prompts"]), value)
            else:
                yield from self._condensed(one, run, results)
        if any(one.chosen == "scratch" for one in planned):
            yield self._point("from scratch", 1.0, self.source.prompts, full)

    def _condensed(self, one: Planned, run: Path, results: dict[str, Any]) -> Iterator[Point]:
        several = len(one.keep) > 1
        random = "random, " * (one.chosen == "random")
        for entry in results["budgets"] if several else [{**results, "keep": one.keep[0]}]:
            keep, count = float(entry["keep"]), sum(entry["kept"])
            budget = str(keep) if several else ""
            value = self._value(run, named("masked", budget), entry["accuracy_masked"])
            yield self._point(f"{random}masked only", keep, count, value)
            if one.finetune:
                stem = f"{named('finetune', budget)}-last"
                value = self._value(run, stem, entry["accuracy_finetuned"])
                yield self._point(f"{random}fine-tuned", keep, count, value)

    def _value(self, run: Path, checkpoint: str, on_val: float) -> float:
        if self.split == "val":
            return float(on_val)
        subject = open_subject(run, checkpoint, self.options)
        model = subject.model.to(self.device)
        value, _ = accuracies(model, [model.prompts.keep.clone()], subject.batches(self.split))
        return value

    def _point(self, series: str, keep: float, count: int, accuracy: float) -> Point:
        return Point(series, self.source.name, keep, count, accuracy)
