"""Finding configuration files, and the ``base.yaml`` files that each builds upon."""

import difflib
from pathlib import Path

import yaml

from pcvpt.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent
# Inside an installed package, or at the top of a checkout.
CONFIGS = next(
    (p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()),
    _PACKAGE / "configs",
)
BASE = "base.yaml"


def find_config(name: str) -> Path:
    """Return the file meant by ``name``: a path, or a shipped config's bare name.

    A file of that name in the working folder wins over a shipped one.

    Raises:
        UsageError: when there is none; the nearest shipped names are given.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = {file.name: file for file in sorted(CONFIGS.rglob("*.yaml")) if file.name != BASE}
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=3, cutoff=0.5) or sorted(shipped)
    raise UsageError(f"no configuration {name}: no such file, and shipped are {', '.join(near)}")


def _check_yaml(path: Path) -> None:
    """Raise a UsageError that names the file and the line unless ``path`` is a YAML mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not readable as YAML ({reason})") from error
    if not isinstance(content, dict | None):
        raise UsageError(f"{path}: a configuration is a mapping such as `model: ...`")


def with_bases(path: Path) -> list[Path]:
    """Return ``path`` after the files it builds upon, the most general first.

    Those are the shipped ``base.yaml``, then each ``base.yaml`` in the unbroken run of folders
    above ``path`` that hold one.
    """
    bases: list[Path] = []
    for folder in path.resolve().parents:
        base = folder / BASE
        if not base.is_file() or folder == CONFIGS:
            break
        bases.insert(0, base)
    return list(dict.fromkeys([CONFIGS / BASE, *bases, path]))


def expand(arguments: list[str]) -> tuple[list[str], str | None]:
    """Replace each ``--config NAME`` in ``arguments`` by its files, bases first and once.

    Returns:
        The new arguments, and a name for the run made of the configs' stems (None without any).
    """
    files: list[Path] = []
    rest: list[str] = []
    names: list[str] = []
    pending = iter(arguments)
    for argument in pending:
        option, joined, value = argument.partition("=")
        if option not in ("--config", "-c"):
            rest.append(argument)
            continue
        name = value if joined else next(pending, None)
        if name is None:
            raise UsageError("--config needs the name of a file")
        path = find_config(name)
        names.append(path.stem)
        files.extend(with_bases(path))
    files = list(dict.fromkeys(files))
    for file in files:
        _check_yaml(file)
    configs = [part for file in files for part in ("--config", str(file))]
    return configs + rest, "_".join(names) or None
