"""Reading YAML that a person wrote: its content, or the line that is wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from pcvpt.cli.moved import with_current_paths
from pcvpt.errors import UsageError

_DEEPEST = 30  # far deeper than any configuration; later readers recurse several times per level


def load(text: str) -> Any:
    """Return the content of the YAML ``text``, with the present paths of classes that have moved.

    Numbers are read as jsonargparse reads them: ``1e-3`` is one, which PyYAML takes for text.
    """
    return with_current_paths(get_loader("yaml")(text))


def read_mapping(path: Path) -> dict[Any, Any]:
    """Return the mapping in the YAML file ``path``, {} if the file is empty.

    Raises:
        UsageError: Anything but a mapping with each key once; names the file, and the line if there
            is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        fault = next(_faults(yaml.compose(text, yaml.SafeLoader), ()), None)
        content = load(text) if fault is None else None
        if isinstance(content, str):  # jsonargparse takes a mapping of empty values for text
            content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = ", ".join(filter(None, (error.problem, error.context)))
        if "'\\t'" in reason:
            reason = "a tab; YAML is indented by spaces"
        raise UsageError(f"{path}: {place}not readable as YAML: {reason}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: such as 0x alone
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not readable as YAML ({reason})") from error
    except RecursionError:
        fault = _TOO_DEEP
    if fault is not None:
        raise UsageError(f"{path}: {fault}")
    if not isinstance(content, dict | None):
        raise UsageError(f"{path}: a configuration is a mapping such as `model: ...`")
    return content or {}


_TOO_DEEP = f"nested more than {_DEEPEST} deep, which no option is; check the indentation"


def _faults(node: yaml.Node | None, above: tuple[yaml.Node, ...]) -> Iterator[str]:
    """Find what YAML readers accept without a word, but nobody means."""
    line = 1 if node is None else node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
        yield f"line {line}: a NUL character, which no name has"
    if not isinstance(node, yaml.CollectionNode):
        return
    if any(node is other for other in above):
        yield f"line {line}: an alias inside of what it stands for"
        return
    if len(above) >= _DEEPEST:
        yield f"line {line}: {_TOO_DEEP}"
        return
    if isinstance(node, yaml.MappingNode):
        yield from _faults_of_keys(node)
        children = [child for pair in node.value for child in pair]
    else:
        children = node.value
    for child in children:
        yield from _faults(child, (*above, node))


def _faults_of_keys(node: yaml.MappingNode) -> Iterator[str]:
    """Find keys of which a reader would lose one."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines and name != "<<":
            yield f"line {line}: {name} is there twice (first in line {lines[name]}); remove one"
        lines[name] = line
    for name, line in lines.items():
        first = name.partition(".")[0]
        if first != name and first in lines:
            yield (
                f"line {line}: {name} stands beside {first} (line {lines[first]}), and one of the "
                f"two would be lost; move it into {first}"
            )
