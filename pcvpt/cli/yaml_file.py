"""Reading a YAML file that people wrote: what it holds, or where it is wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from pcvpt.errors import UsageError

_DEEPEST = 30  # far beyond any configuration; what reads it later recurses several times per level


def read_mapping(path: Path) -> dict[Any, Any]:
    """Return what the YAML file ``path`` holds, {} if nothing.

    Numbers are read as the command reads them: ``1e-3`` is one, which PyYAML takes for text.

    Raises:
        UsageError: naming the file, and the line if there is one, unless it is a mapping with each
            key once.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check(path, yaml.compose(text, yaml.SafeLoader), ())
        content = get_loader("yaml")(text)
        if isinstance(content, str):  # it takes a mapping of empty values for text
            content = yaml.safe_load(text)
    except UsageError:
        raise
    except yaml.MarkedYAMLError as error:
        raise UsageError(
            f"{path}: {_place(error)}not readable as YAML: {_reason(error)}"
        ) from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: such as 0x alone
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not readable as YAML ({reason})") from error
    except RecursionError:
        raise UsageError(f"{path}: {_TOO_DEEP}") from None
    if not isinstance(content, dict | None):
        raise UsageError(f"{path}: a configuration is a mapping such as `model: ...`")
    return content or {}


_TOO_DEEP = f"nested more than {_DEEPEST} deep, which no option is; is the indentation right?"


def _check(path: Path, node: yaml.Node | None, above: tuple[int, ...]) -> None:
    """Refuse what YAML readers take without a word, but is never meant."""
    if node is None:
        return
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        if "\0" in node.value:
            raise UsageError(f"{path}: line {line}: a NUL character, which nothing has in its name")
        return
    if id(node) in above:
        raise UsageError(f"{path}: line {line}: an alias inside of what it stands for")
    if len(above) >= _DEEPEST:
        raise UsageError(f"{path}: line {line}: {_TOO_DEEP}")
    if isinstance(node, yaml.MappingNode):
        _check_keys(path, node)
    for child in _children(node):
        _check(path, child, (*above, id(node)))


def _check_keys(path: Path, node: yaml.MappingNode) -> None:
    """Refuse a key that is there twice; the first would be lost."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines and name != "<<":
            raise UsageError(
                f"{path}: line {line}: {name} is there a second time (first in line "
                f"{lines[name]}); make one of the two"
            )
        lines[name] = line
    for name, line in lines.items():
        first = name.partition(".")[0]
        if first != name and first in lines:
            raise UsageError(
                f"{path}: line {line}: {name} stands beside {first} (line {lines[first]}), and one "
                f"of them would be lost; move it into {first}"
            )


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    for child in node.value:
        if isinstance(child, tuple):  # of a mapping
            yield from child
        else:
            yield child


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _reason(error: yaml.MarkedYAMLError) -> str:
    if error.problem and "'\\t'" in error.problem:
        return "a tab; YAML is indented by spaces"
    return ", ".join(part for part in (error.problem, error.context) if part)
