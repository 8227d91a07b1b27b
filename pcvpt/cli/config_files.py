"""Configuration files, and the ``base.yaml`` files that each builds upon."""

import difflib
from itertools import takewhile
from pathlib import Path

from pcvpt.cli.yaml_file import read_mapping
from pcvpt.errors import UsageError
from pcvpt.runs.folder import shipped

CONFIGS, STUDIES = shipped("configs"), shipped("studies")
BASE = "base.yaml"
SECTIONS = ("trainer", "model", "condense")


def find_config(name: str) -> Path:
    """Return the file called ``name``: a path, or the bare name of a shipped config.

    A file of that name in the working folder wins over a shipped one. A UsageError with the nearest
    shipped names is raised if there is neither.
    """
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # no such user, too long a name, no way in
        raise UsageError(f"no configuration {name:.200}: {error}") from error
    shipped = {file.name: file for file in sorted(CONFIGS.rglob("*.yaml")) if file.name != BASE}
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.5) or sorted(shipped)
    raise UsageError(f"no configuration {name}: no such file, and shipped are {', '.join(near)}")


def _has_options(path: Path) -> bool:
    """Return whether the file ``path`` sets anything; a UsageError refuses what is no section."""
    content = read_mapping(path)
    for name in content.keys() & {"config", "help", "print_config"}:
        raise UsageError(f"{path}: unknown key {name}; it is an option of the command line only")
    for section in SECTIONS:
        value = content.get(section, {})
        if not isinstance(value, dict | str):
            found = "empty" if value is None else f"{value!r:.60}"
            raise UsageError(f"{path}: {section} is {found}; give a mapping, or leave it out")
    return bool(content)


def with_bases(path: Path) -> list[Path]:
    """Return ``path`` after the files that it builds upon, the most general first.

    They are the shipped ``base.yaml``, then each ``base.yaml`` in the unbroken run of folders
    above ``path`` that hold one.
    """
    above = (folder / BASE for folder in path.resolve().parents)
    bases = takewhile(lambda base: base.is_file() and base.parent != CONFIGS, above)
    return list(dict.fromkeys([CONFIGS / BASE, *reversed([*bases]), path]))


def expand(arguments: list[str]) -> tuple[list[str], str | None]:
    """Return ``arguments`` with the files of each ``--config NAME``, bases first and once.

    With them is the name of the run: names of the configs joined by `_`, None without any. A
    UsageError is raised if a file is missing, or is no configuration.
    """
    paths: list[Path] = []
    rest: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        option, joined, value = argument.partition("=")
        if option not in ("--config", "-c"):
            rest.append(argument)
        elif name := value if joined else next(pending, ""):
            paths.append(find_config(name))
        else:
            raise UsageError("--config needs the name of a file")
    files = dict.fromkeys(file for path in paths for file in with_bases(path))
    # One that is empty can't be parsed.
    configs = [part for file in files if _has_options(file) for part in ("--config", str(file))]
    return configs + rest, "_".join(path.stem for path in paths) or None
