"""A study: the runs that a table needs, as a YAML file says. Nothing is run here.

A **cell** is one config, with one method, with one combination of what varies. It may choose
hyper-parameters by the validation accuracy of one seed; then its runs of all seeds follow.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from pcvpt.cli.config_files import STUDIES, expand, find_config
from pcvpt.cli.resume import leaves
from pcvpt.cli.studies.search import Options, Search, combinations
from pcvpt.cli.yaml_file import read_mapping
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError


class ValAccuracy(Protocol):
    """Validation accuracy of a run in percent after its last epoch; None while it is not finished.

    With ``may_stop``, a candidate that was stopped early has less than any other.
    """

    def __call__(self, run: "Run", may_stop: bool = False) -> float | None:
        """Return it for ``run``."""


STAGES = ("trained", "condensed", "finetuned")
"""Stages of a run: all prompts trained, right after masking or merging, and fine-tuned."""

# Settings that neither the result nor the place of the images depends on.
NO_MATTER = (
    *("output_dir", "name", "resume", "retest", "predictions", "trainer.logger"),
    *("trainer.enable_", "trainer.profiler", "trainer.log_every_n_steps", "data.num_workers"),
    *("data.init_args.num_workers", "data.init_args.persistent_workers"),
)
_KEYS = {
    "study": ("configs", "methods", "options", "vary", "search", "seeds", "final", "stages"),
    "method": ("configs", "options", "vary", "search", "stages"),
    "search": ("vary", "sampler", "trials", "options", "seed", "grace"),
    "range": ("from", "to", "count", "scale"),
}


@dataclass(frozen=True)
class Run:
    """One fit, in a folder that is named by its merged configuration."""

    configs: tuple[str, ...]
    options: Options

    @cached_property
    def key(self) -> str:
        """Name of its folder: the hash of all settings on which the result depends."""
        settings = {k: v for k, v in leaves(self.merged()) if not k.startswith(NO_MATTER)}
        text = json.dumps(sorted(settings.items()), default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def merged(self) -> dict[str, Any]:
        """Return its configuration: its files and then its options, the later ones first."""
        merged: dict[str, Any] = {}
        for file in _files(self.configs):
            _merge(merged, _content(file))
        for key, value in self.options:
            *sections, name = key.split(".")
            inner: Any = {name: value}
            for section in reversed(sections):
                inner = {section: inner}
            _merge(merged, inner)
        return merged

    def arguments(self) -> list[str]:
        """Return it as arguments of ``pcvpt fit``."""
        files = [part for name in self.configs for part in ("--config", name)]
        return [*files, *(argument(key, value) for key, value in self.options)]


@dataclass(frozen=True)
class Cell:
    """One cell of a study.

    Attributes:
        config: Config of the data, without its ending.
        method: Name of the method.
        varied: What varies, and its value here.
        stages: Stages that are tested.
        search: What is chosen by validation accuracy, and how.
        base: Config files and options of its runs.
        seeds: Seeds of its runs.
        final: Options of its runs that the candidates do not have.
    """

    config: str
    method: str
    varied: Options
    stages: tuple[str, ...]
    search: Search
    base: Run
    seeds: tuple[int, ...]
    final: Options

    @property
    def name(self) -> str:
        """Name of the method, with what varies."""
        return " ".join([self.method, *(f"{k.split('.')[-1]}={told(v)}" for k, v in self.varied)])

    def candidates(self, accuracy: ValAccuracy) -> dict[Options, Run]:
        """Return the runs among which is chosen, as far as they are known, by what they try."""
        may_stop = self.search.grace is not None
        tried = self.search.tried(lambda tried: accuracy(self._candidate(tried), may_stop))
        return {options: self._candidate(options) for options in tried}

    def _candidate(self, tried: Options) -> Run:
        return with_seed(self.base, self.search.seed, (*tried, *self.search.options))

    def chosen(self, accuracy: ValAccuracy) -> Options | None:
        """Return the options that are best on val, the smaller values of equals.

        None while a candidate is not finished. Test accuracies are not looked at.
        """
        may_stop = self.search.grace is not None
        candidates = self.candidates(accuracy)
        found = {options: accuracy(run, may_stop) for options, run in candidates.items()}
        known = {options: value for options, value in found.items() if value is not None}
        if len(known) < max(len(found), 1 if self.search.values else 0):
            return None
        order = [(-value, [_rank(v) for _, v in tried], tried) for tried, value in known.items()]
        return min(order, key=lambda one: one[:2])[2] if order else ()

    def runs(self, accuracy: ValAccuracy) -> dict[int, Run]:
        """Return its runs by seed; none before the choice is made."""
        tried = self.chosen(accuracy)
        if tried is None:
            return {}
        return {seed: with_seed(self.base, seed, (*tried, *self.final)) for seed in self.seeds}

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

    def runs(self, accuracy: ValAccuracy) -> dict[str, Run]:
        """Return the runs that are known by now, by key: candidates first, then the others."""
        candidates = [run for cell in self.cells for run in cell.candidates(accuracy).values()]
        chosen = [run for cell in self.cells for run in cell.runs(accuracy).values()]
        return {run.key: run for run in (*candidates, *chosen)}


def read_study(path: Path) -> Study:
    """Read the study in the YAML file ``path``, or the shipped one of that name.

    Raises:
        UsageError: Missing file, unknown key, or value of another kind than the key takes.
    """
    if not path.is_file():
        shipped = {file.name: file for file in sorted(STUDIES.glob("*.yaml"))}
        if path.name not in shipped:
            told = ", ".join(shipped)
            raise UsageError(f"no study {path}: no such file, and shipped are {told}")
        path = shipped[path.name]
    content = read_mapping(path)
    reader = _Reader(path)
    reader.keys(content, "study")
    for name in ("configs", "methods"):
        if not content.get(name):
            raise UsageError(f"{path}: {name} is missing; a study needs configs and methods")
    return Study(path, tuple(reader.cells(content)), content)


@dataclass(frozen=True)
class _Reader:
    """Reads one study file."""

    path: Path

    def keys(self, content: Any, kind: str, where: str = "") -> dict[str, Any]:
        if not isinstance(content, Mapping):
            raise UsageError(f"{self.path}: {where or kind} is {content!r:.60}; give a mapping")
        for key in content:
            if key not in _KEYS[kind]:
                near = difflib.get_close_matches(str(key), _KEYS[kind], 1) or _KEYS[kind]
                place = f"{where}: " if where else ""
                raise UsageError(
                    f"{self.path}: {place}unknown key {key}; did you mean {', '.join(near)}?"
                )
        return dict(content)

    def cells(self, study: Mapping[str, Any]) -> Iterator[Cell]:
        methods = study["methods"]
        if isinstance(methods, list):
            methods = {str(name).removesuffix(".yaml"): {"configs": [name]} for name in methods}
        seeds = study.get("seeds", [0])
        if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
            raise UsageError(f"{self.path}: seeds is {seeds!r:.60}; give a list of whole numbers")
        final = self.options(study.get("final", {}), "final")
        for name in self.configs(study["configs"], "configs"):
            for method, content in methods.items():
                where = f"methods.{method}"
                own = self.keys(content or {}, "method", where)
                search = self.search({**study.get("search", {}), **own.get("search", {})})
                configs = (name, *self.configs(own.get("configs", []), f"{where}.configs"))
                options = (
                    *self.options(study.get("options", {}), "options"),
                    *self.options(own.get("options", {}), f"{where}.options"),
                )
                stages = tuple(own.get("stages", study.get("stages", STAGES[-1:])))
                if not set(stages) <= set(STAGES):
                    raise UsageError(
                        f"{self.path}: stages {', '.join(map(str, stages))}; choose of "
                        f"{', '.join(STAGES)}"
                    )
                vary = {**study.get("vary", {}), **own.get("vary", {})}
                for varied in combinations(self.lists(vary, "vary")):
                    base = Run(configs, (*options, *varied))
                    yield Cell(
                        Path(name).stem,
                        str(method),
                        varied,
                        stages,
                        search,
                        base,
                        tuple(seeds),
                        final,
                    )

    def search(self, search: Mapping[str, Any]) -> Search:
        content = {**self.keys(search, "search", "search")}
        content["values"] = self.lists(content.pop("vary", {}), "search.vary")
        content["options"] = self.options(content.get("options", {}), "search.options")
        try:
            return Search(**content)
        except UsageError as error:
            raise UsageError(f"{self.path}: search: {error}") from error

    def configs(self, names: Any, where: str) -> tuple[str, ...]:
        """Return config names, with those of a suite or a group in its place."""
        found: list[str] = []
        for name in [names] if isinstance(names, str) else names:
            of_suite = [task.name for task in TASKS.values() if name in (task.suite, task.group)]
            if not of_suite:
                try:
                    find_config(str(name))
                except UsageError as error:
                    raise UsageError(f"{self.path}: {where}: {error}") from error
            found += [f"{task}.yaml" for task in of_suite] or [str(name)]
        return tuple(dict.fromkeys(found))

    def options(self, options: Any, where: str) -> Options:
        if not isinstance(options, Mapping):
            raise UsageError(f"{self.path}: {where} is {options!r:.60}; give a mapping of options")
        return tuple((str(key), value) for key, value in leaves(options)) if options else ()

    def lists(self, vary: Any, where: str) -> dict[str, Sequence[Any]]:
        """Return the values of each option in ``vary``."""
        if not isinstance(vary, Mapping):
            raise UsageError(f"{self.path}: {where} is {vary!r:.60}; give options with their lists")
        return {str(key): self.values(value, f"{where}: {key}") for key, value in vary.items()}

    def values(self, value: Any, where: str) -> Sequence[Any]:
        """Return the values of a list, or of a range with ``from``, ``to`` and ``count``."""
        if isinstance(value, list) and value:
            return value
        if not isinstance(value, Mapping):
            raise UsageError(
                f"{self.path}: {where} is {value!r:.60}, but what varies needs a list, or a range "
                "with from, to and count; put a single value into options"
            )
        of = self.keys(value, "range", where)
        try:
            low, high, count = float(of["from"]), float(of["to"]), int(of["count"])
            ratio = (high / low) ** (1 / (count - 1)) if of.get("scale", "log") == "log" else None
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UsageError(
                f"{self.path}: {where}: a range needs from, to, and a count of at least 2; a log "
                "scale (the default) needs from above 0"
            ) from error
        steps = range(count)
        if ratio is None:
            return [low + (high - low) * step / (count - 1) for step in steps]
        return [float(f"{low * ratio**step:.6g}") for step in steps]


def with_seed(base: Run, seed: int, further: Options = ()) -> Run:
    """Return ``base`` with a seed of weights, batches and data, and ``further`` options."""
    options = dict((*base.options, *further, ("seed_everything", seed)))
    return Run(base.configs, tuple(options.items()))


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
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = json.loads(json.dumps(value, default=str))


@cache
def _files(configs: tuple[str, ...]) -> tuple[Path, ...]:
    arguments, _ = expand([part for name in configs for part in ("--config", name)])
    return tuple(map(Path, arguments[1::2]))


@cache
def _content(file: Path) -> dict[Any, Any]:
    return read_mapping(file)
