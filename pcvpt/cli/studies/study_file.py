"""The YAML file of a study."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
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

    The ending may be left out. A UsageError is raised if the file is missing, a key is unknown, or
    a value is of another kind than its key takes.
    """
    path = path if path.is_file() else path.with_suffix(path.suffix or ".yaml")
    if not path.is_file():
        shipped = {file.name: file for file in sorted(STUDIES.glob("*.yaml"))}
        if path.name not in shipped:
            told = ", ".join(shipped)
            raise UsageError(f"no study {path}: no such file, and shipped are {told}")
        path = shipped[path.name]
    content = read_mapping(path)
    try:
        return Study(path, tuple(_cells(_mapping(content, "the study", "study"))), content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _cells(study: Mapping[str, Any]) -> Iterator[Cell]:
    for name in ("configs", "methods"):
        if not study.get(name):
            raise UsageError(f"{name} is missing; a study needs configs and methods")
    methods = study["methods"]
    if isinstance(methods, list):
        methods = {str(name).removesuffix(".yaml"): {"configs": [name]} for name in methods}
    seeds = study.get("seeds", [0])
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)):
        raise UsageError(f"seeds is {seeds!r:.60}; give a list of whole numbers")
    final = _options(study.get("final", {}), "final")
    for name in _configs(study["configs"]):
        made: dict[str, list[Cell]] = {}
        for method, content in _mapping(methods, "methods").items():
            where = f"methods.{method}"
            own = _mapping(content or {}, where, "method")
            starts = _starts(own, made, where)
            # What all methods have comes from the cell that it starts from.
            shared = study if "from" not in own else {}
            search = _search({**shared.get("search", {}), **own.get("search", {})})
            configs = _configs(own.get("configs", []))
            options = (
                *_options(shared.get("options", {}), "options"),
                *_options(own.get("options", {}), f"{where}.options"),
            )
            stages = tuple(own.get("stages", study.get("stages", STAGES[-1:])))
            if not set(stages) <= set(STAGES):
                told = ", ".join(map(str, stages))
                raise UsageError(f"stages {told}; choose of {', '.join(STAGES)}")
            vary = _lists({**shared.get("vary", {}), **own.get("vary", {})}, "vary")
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


def _starts(
    own: Mapping[str, Any], made: Mapping[str, list[Cell]], where: str
) -> Sequence[Cell | None]:
    """Return the cells of the method that the method ``own`` starts from; None for none."""
    if "from" not in own:
        return [None]
    known = {name: cells for name, cells in made.items() if cells[0].start is None}
    if own["from"] not in known:
        raise UsageError(
            f"{where}.from is {own['from']}; choose a method above it that has no from itself: "
            f"{', '.join(known) or 'there is none'}"
        )
    if "configs" in own:
        raise UsageError(
            f"{where} has configs and from; a method that starts from another has the configs of "
            "that one, so give options"
        )
    return known[own["from"]]


def _search(search: Mapping[str, Any]) -> Search:
    content = dict(_mapping(search, "search", "search"))
    values = _lists(content.pop("vary", {}), "search.vary")
    options = _options(content.pop("options", {}), "search.options")
    return Search(values, options=options, **content)


def _configs(names: Any) -> tuple[str, ...]:
    """Return config names, with those of a suite or a group in its place."""
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        of_suite = [task.name for task in TASKS.values() if name in (task.suite, task.group)]
        if not of_suite:
            find_config(str(name))  # refuses the name of no file
        found += [f"{task}.yaml" for task in of_suite] or [str(name)]
    return tuple(dict.fromkeys(found))


def _options(options: Any, where: str) -> Options:
    return tuple(leaves(_mapping(options, where))) if options != {} else ()


def _lists(vary: Any, where: str) -> dict[str, Sequence[Any]]:
    options = _mapping(vary, where).items()
    return {str(key): _values(value, f"{where}: {key}") for key, value in options}


def _values(value: Any, where: str) -> Sequence[Any]:
    """Return the values of a list, or of a range with ``from``, ``to`` and ``count``."""
    if isinstance(value, list) and value:
        return value
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{where} is {value!r:.60}, but what varies needs a list, or a range with from, to and "
            "count; put a single value into options"
        )
    of = _mapping(value, where, "range")
    try:
        low, high, count = float(of["from"]), float(of["to"]), int(of["count"])
        ratio = (high / low) ** (1 / (count - 1)) if of.get("scale", "log") == "log" else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"{where}: a range needs from, to, and a count of at least 2; a log scale (the "
            "default) needs from above 0"
        ) from error
    steps = range(count)
    if ratio is None:
        return [low + (high - low) * step / (count - 1) for step in steps]
    return [float(f"{low * ratio**step:.6g}") for step in steps]


def _mapping(content: Any, where: str, kind: str = "") -> Mapping[str, Any]:
    """Return the mapping ``content``; if it has a ``kind``, it may have the keys of that alone."""
    if not isinstance(content, Mapping):
        raise UsageError(f"{where} is {content!r:.60}; give a mapping")
    for key in content if kind else ():
        if key not in _KEYS[kind]:
            near = difflib.get_close_matches(str(key), _KEYS[kind], 1) or _KEYS[kind]
            raise UsageError(f"{where}: unknown key {key}; did you mean {', '.join(near)}?")
    return content
