"""The YAML file of a study."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcvpt.cli.config_files import STUDIES, find_config
from pcvpt.cli.resume import leaves
from pcvpt.cli.studies.search import Options, Search, combinations
from pcvpt.cli.studies.study import STAGES, Cell, Run, Study
from pcvpt.cli.yaml_file import read_mapping
from pcvpt.data.tasks.table import TASKS
from pcvpt.errors import UsageError

_KEYS = {
    "study": ("configs", "methods", "options", "vary", "search", "seeds", "final", "stages"),
    "method": ("configs", "from", "options", "vary", "search", "stages"),
    "search": ("vary", "sampler", "trials", "options", "seed", "grace"),
    "range": ("from", "to", "count", "scale"),
}


def read_study(path: Path) -> Study:
    """Read the study in the YAML file ``path``, or the shipped one of that name.

    The ending may be left out.

    Raises:
        UsageError: Missing file, unknown key, or value of another kind than the key takes.
    """
    if not path.is_file():
        path = path.with_suffix(path.suffix or ".yaml")
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
            made: dict[str, list[Cell]] = {}
            for method, content in methods.items():
                where = f"methods.{method}"
                own = self.keys(content or {}, "method", where)
                starts = self.starts(own, made, where)
                # What all methods have comes from the cell that it starts from.
                shared = study if "from" not in own else {}
                search = self.search({**shared.get("search", {}), **own.get("search", {})})
                configs = self.configs(own.get("configs", []), f"{where}.configs")
                options = (
                    *self.options(shared.get("options", {}), "options"),
                    *self.options(own.get("options", {}), f"{where}.options"),
                )
                stages = tuple(own.get("stages", study.get("stages", STAGES[-1:])))
                if not set(stages) <= set(STAGES):
                    raise UsageError(
                        f"{self.path}: stages {', '.join(map(str, stages))}; choose of "
                        f"{', '.join(STAGES)}"
                    )
                vary = self.lists({**shared.get("vary", {}), **own.get("vary", {})}, "vary")
                made[method] = [
                    Cell(
                        Path(name).stem,
                        str(method),
                        (*(start.varied if start else ()), *varied),
                        stages,
                        search,
                        Run(() if start else (name, *configs), (*options, *varied)),
                        tuple(seeds),
                        final,
                        start,
                    )
                    for start in starts
                    for varied in combinations(vary)
                ]
                yield from made[method]

    def starts(
        self, own: Mapping[str, Any], made: Mapping[str, list[Cell]], where: str
    ) -> Sequence[Cell | None]:
        """Return the cells of the method that the method ``own`` starts from; None for none."""
        if "from" not in own:
            return [None]
        known = {name: cells for name, cells in made.items() if cells[0].start is None}
        if own["from"] not in known:
            raise UsageError(
                f"{self.path}: {where}.from is {own['from']}; choose a method above it that has no "
                f"from itself: {', '.join(known) or 'there is none'}"
            )
        if "configs" in own:
            raise UsageError(
                f"{self.path}: {where} has configs and from; a method that starts from another "
                "has the configs of that one, so give options"
            )
        return known[own["from"]]

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
