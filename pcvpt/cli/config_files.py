"""Finding configuration files, and the ``base.yaml`` files that each builds upon."""

import difflib
from pathlib import Path

from pcvpt.cli.yaml_file import read_mapping
from pcvpt.errors import UsageError

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside an installed package, or at the top of a checkout.
CONFIGS = next(
    (p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()),
    _PACKAGE / "configs",
)
BASE = "base.yaml"
SECTIONS = ("trainer", "model", "condense")


def find_config(name: str) -> Path:
    """Return the file meant by ``name``: a path, or a shipped config's bare name.

    A file of that name in the working folder wins over a shipped one.

    Raises:
        UsageError: when there is none; the nearest shipped names are given.
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


def _check_sections(path: Path) -> bool:
    """Say whether the file ``path`` holds anything; refuse sections that hold no options.

    Raises:
        UsageError: naming the file and the section, or what :func:`read_mapping` raises.
    """
    content = read_mapping(path)
    for section in SECTIONS:
        if section in content and not isinstance(content[section], dict | str):
            raise UsageError(
                f"{path}: {section} is {_in_words(content[section])}, but must be a mapping of its "
                "options; leave it out if there are none"
            )
    return bool(content)


def _in_words(value: object) -> str:
    return "empty" if value is None else f"{value!r:.60}"


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
    told = [file for file in files if _check_sections(file)]  # an empty one can't be parsed
    configs = [part for file in told for part in ("--config", str(file))]
    return configs + rest, "_".join(names) or None
