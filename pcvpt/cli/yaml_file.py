"""Reading YAML that a person wrote: its content, or the line that is wrong."""

import re
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from pcvpt.errors import UsageError

_SPEC = ("class_path", "init_args", "dict_kwargs")
_FORMER = (  # paths of classes in the config of an older run, and those of today
    (r"\bpcvpt\.callbacks\.(?:checkpointing|inspection|record)(?=\.[A-Z])", "pcvpt.callbacks"),
    (r"\bpcvpt\.data\.(?:datamodule|demo|own|table|tasks)(?=\.[A-Z])", "pcvpt.data"),
    (r"\bpcvpt\.data\.(Demo|Image|ImageFolder|Json|ListFile)Task\b", r"pcvpt.data.\1DataModule"),
    (r"\bpcvpt\.data\.TableTask\b", "pcvpt.data.BenchmarkDataModule"),
    (r"\bpcvpt\.(?=(?:module|recipe)\.[A-Z])", "pcvpt.training."),
)
_DEEPEST = 30  # far deeper than any configuration; later readers recurse several times per level


def load(text: str) -> Any:
    """Return the content of the YAML ``text``, with the present paths of classes that have moved.

    Numbers are read as jsonargparse reads them: ``1e-3`` is one, which PyYAML takes for text.
    """
    for former, now in _FORMER:
        text = re.sub(former, now, text)
    return get_loader("yaml")(text)


def read_mapping(path: Path) -> dict[Any, Any]:
    """Return the mapping in the YAML file ``path``, {} if the file is empty.

    For anything but a mapping with each key once, a UsageError names the file, and the line if
    there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        _check(yaml.compose(text, yaml.SafeLoader))
        content = load(text)
        if isinstance(content, str):  # jsonargparse takes a mapping of empty values for text
            content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = ", ".join(filter(None, (error.problem, error.context)))
        if "'\\t'" in reason:
            reason = "a tab; YAML is indented by spaces"
        raise UsageError(f"{path}: {place}not readable as YAML: {reason}") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: 0x alone
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: not readable as YAML ({reason})") from error
    if not isinstance(content, dict | None):
        raise UsageError(f"{path}: a configuration is a mapping such as `model: ...`")
    return content or {}


def _check(node: yaml.Node | None, depth: int = 0) -> None:
    """Refuse what YAML readers accept without a word, but nobody means."""
    if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
        raise _error("a NUL character, which no name has", node)
    if not isinstance(node, yaml.CollectionNode):
        return
    if depth == _DEEPEST:  # an alias inside of what it stands for has no end
        raise _error(f"nested more than {_DEEPEST} deep; check indentation and aliases", node)
    children = node.value
    if isinstance(node, yaml.MappingNode):
        _check_keys([key for key, _ in node.value])
        children = [child for pair in node.value for child in pair]
    for child in children:
        _check(child, depth + 1)


def _check_keys(keys: list[yaml.Node]) -> None:
    """Refuse keys of which a reader would lose one."""
    first = {str(key.value): key for key in reversed(keys)}
    for key in keys:
        name = str(key.value)
        section = first.get(name.partition(".")[0], key)
        if first[name] is not key and name != "<<":
            raise _error(f"{name} is there twice; remove one", key)
        if section is not key and section is not first[name]:
            raise _error(f"{name} stands beside {section.value}; move it into that section", key)
        if "class_path" in first and name not in _SPEC:
            raise _error(f"{name} stands beside class_path; move it into init_args", key)


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
