"""Where options come from: files and the command line, each by itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pcvpt.cli.yaml_file import read_mapping

# What has no place in a configuration.
NO_OPTIONS = ("help", "config", "print_config")


class Source(NamedTuple):
    """A file, or an option of the command line, whose value is ``Text``.

    Attributes:
        name: for people.
        content: what it sets; keys may have dots.
        file: None for the command line.
    """

    name: str
    content: Mapping[Any, Any]
    file: Path | None = None

    def shown(self, key: str) -> str:
        """Return ``key`` as it is written there."""
        return key if self.file else f"--{key}"


class Text(str):
    """What stands on the command line, not read as YAML yet."""


NO_VALUE = Text()
"""Of a switch, or of an option whose value was forgotten."""


def sources_of(arguments: Sequence[str]) -> list[Source]:
    """Return the files of ``arguments``, and then each option of the command line."""
    files: list[Source] = []
    options: list[Source] = []
    waiting = list(arguments)
    while waiting:
        option, joined, value = waiting.pop(0).partition("=")
        if not option.startswith("--"):
            continue
        follows = not joined and waiting and not waiting[0].startswith("--")
        text = waiting.pop(0) if follows else value
        name = option[2:].removesuffix("+")
        if name == "config":
            files.append(Source(text, read_mapping(Path(text)), Path(text)))
        elif name.split(".")[-1] not in NO_OPTIONS:
            given = Text(text) if joined or follows else NO_VALUE
            options.append(Source("the command line", {name: given}))
    return files + options


def name_of_setter(key: str, sources: Sequence[Source]) -> str:
    """Return the name of the last source that sets ``key``, as the beginning of a message."""
    names = [source.name for source in sources if _sets(source.content, key)]
    return f"{names[-1]}: " if names else ""


def _sets(content: Any, key: str) -> bool:
    first, _, rest = key.partition(".")
    if not isinstance(content, Mapping):
        return False
    if key in content or any(str(name).startswith(f"{key}.") for name in content):
        return True
    return bool(rest) and _sets(content.get(first), rest)
