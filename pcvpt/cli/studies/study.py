"""A study: the runs that a table needs. Nothing is run here.

A **cell** is one config, with one method, with one combination of what varies. It may choose
hyper-parameters by the validation accuracy of one seed; then its runs of all seeds follow. It may
start from another cell: then each of its runs starts from the prompts that a run of the other has
trained.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pcvpt.cli.config_files import expand
from pcvpt.cli.resume import leaves
from pcvpt.cli.studies.search import Options, Search
from pcvpt.cli.yaml_file import read_mapping

ValAccuracy = Callable[["Run", bool], float | None]
"""Validation accuracy of a run in percent after its last epoch; None while it is not finished.

If the second argument is true, a candidate that was stopped early has less than any other."""

STAGES = ("trained", "condensed", "finetuned")
"""Stages of a run: all prompts trained, right after masking or merging, and fine-tuned."""

# Settings that neither the result nor the place of the images depends on.
NO_MATTER = (
    *("output_dir", "name", "resume", "retest", "predictions", "trainer.logger"),
    *("trainer.enable_", "trainer.profiler", "trainer.log_every_n_steps", "data.num_workers"),
    *("data.init_args.num_workers", "data.init_args.persistent_workers"),
)


@dataclass(frozen=True)
class Run:
    """One fit, in a folder that is named by its merged configuration.

    With ``start`` it begins at the end of the prompt training of another run.
    """

    configs: tuple[str, ...]
    options: Options
    start: "Run | None" = None

    @cached_property
    def key(self) -> str:
        """Name of its folder: the hash of all settings on which the result depends."""
        settings = {k: v for k, v in leaves(self.merged()) if not k.startswith(NO_MATTER)}
        if self.start is not None:
            settings["from"] = self.start.key
        text = json.dumps(sorted(settings.items()), default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def merged(self) -> dict[str, Any]:
        """Return its configuration: its files and then its options, the later ones first."""
        merged: dict[str, Any] = {}
        for file in _files(self.configs):
            _merge(merged, _content(file))
        for key, value in self.options:
            for section in reversed(key.split(".")):
                value = {section: value}
            _merge(merged, value)
        return merged

    def arguments(self) -> list[str]:
        """Return it as arguments of ``pcvpt fit``."""
        files = [part for name in self.configs for part in ("--config", name)]
        return [*files, *(argument(key, value) for key, value in self.options)]


@dataclass(frozen=True)
class Cell:
    """One cell of a study."""

    config: str  # of the data, without its ending
    method: str  # its name
    varied: Options  # what varies, and its value here
    stages: tuple[str, ...]  # that are tested
    search: Search  # what is chosen by validation accuracy, and how
    base: Run  # config files and options of its runs, after those of ``start``
    seeds: tuple[int, ...]  # of its runs
    final: Options  # of its runs, which the candidates do not have
    start: "Cell | None" = None  # whose run of the same seed each of its runs starts from

    @property
    def name(self) -> str:
        """Name of the method, with what varies."""
        return " ".join([self.method, *(f"{k.split('.')[-1]}={told(v)}" for k, v in self.varied)])

    def candidates(self, accuracy: ValAccuracy) -> dict[Options, Run]:
        """Return the runs among which is chosen, as far as they are known, by what they try."""
        if self._waits(accuracy):
            return {}

        def candidate(tried: Options) -> Run:
            return self._run(self.search.seed, tried, accuracy, final=False)

        may_stop = self.search.grace is not None
        tried = self.search.tried(lambda options: accuracy(candidate(options), may_stop))
        return {options: candidate(options) for options in tried}

    def chosen(self, accuracy: ValAccuracy) -> Options | None:
        """Return the options that are best on val, the smaller values of equals.

        None while a candidate is not finished. Test accuracies are not looked at.
        """
        may_stop = self.search.grace is not None
        candidates = self.candidates(accuracy)
        found = {options: accuracy(run, may_stop) for options, run in candidates.items()}
        known = {options: value for options, value in found.items() if value is not None}
        if self._waits(accuracy) or len(known) < max(len(found), bool(self.search.values)):
            return None
        return min(known, key=lambda one: (-known[one], [_rank(v) for _, v in one]), default=())

    def runs(self, accuracy: ValAccuracy) -> dict[int, Run]:
        """Return its runs by seed; none before the choice is made."""
        tried = self.chosen(accuracy)
        if tried is None:
            return {}
        return {seed: self._run(seed, tried, accuracy, final=True) for seed in self.seeds}

    def example(self, accuracy: ValAccuracy) -> Run:
        """Return a run as it is known before anything is chosen."""
        return self._run(self.seeds[0], (), accuracy, final=True)

    def _waits(self, accuracy: ValAccuracy) -> bool:
        """Return whether the cell that it starts from has still to choose."""
        return self.start is not None and self.start.chosen(accuracy) is None

    def _run(self, seed: int, tried: Options, accuracy: ValAccuracy, final: bool) -> Run:
        """Return the run with ``tried``; that of a candidate starts from one without ``final``."""
        base = self.base
        if self.start is not None:
            start = self.start._run(seed, self.start.chosen(accuracy) or (), accuracy, final)
            base = Run(start.configs, (*start.options, *base.options), start)
        return with_seed(base, seed, (*tried, *(self.final if final else self.search.options)))

    @property
    def planned(self) -> int:
        """Number of runs: candidates, and one for each seed."""
        return self.search.planned + len(self.seeds)


@dataclass(frozen=True)
class Study:
    """All cells of a study file."""

    file: Path
    cells: tuple[Cell, ...]
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the file without its ending."""
        return self.file.stem

    @property
    def configs(self) -> list[str]:
        """The configs of the data, without their endings."""
        return list(dict.fromkeys(cell.config for cell in self.cells))


def with_seed(base: Run, seed: int, further: Options = ()) -> Run:
    """Return ``base`` with a seed of weights, images and condensation, and ``further`` options."""
    seeds = dict.fromkeys(("data.init_args.seed", "condense.seed"), seed)
    options = {**seeds, **dict(base.options), **dict(further), "seed_everything": seed}
    return Run(base.configs, tuple(options.items()), base.start)


def argument(key: str, value: Any) -> str:
    """Return an option as an argument of ``pcvpt fit``."""
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def told(value: Any) -> str:
    """Return ``value`` as a person writes it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rank(value: Any) -> tuple[float, str]:
    """Return the place of ``value`` among equals: smaller numbers first."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (float(value), "") if number else (float("inf"), str(value))


def _merge(into: dict[str, Any], further: Mapping[str, Any]) -> None:
    """Put ``further`` into ``into``; another class does not take the arguments of the former."""
    if further.get("class_path", into.get("class_path")) != into.get("class_path"):
        into.clear()
    for key, value in further.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), str):
            into[key] = {"class_path": into[key]}  # `data: Cars`, and then an option of it
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = json.loads(json.dumps(value, default=str))


@cache
def _files(configs: tuple[str, ...]) -> tuple[Path, ...]:
    arguments, _ = expand([part for name in configs for part in ("--config", name)])
    return tuple(map(Path, arguments[1::2]))


_content = cache(read_mapping)
