"""Present paths of the classes that a config of an older run names."""

from typing import Any

from pcvpt.data import FORMER_NAMES

_MODULES = {  # of classes that a configuration may name
    "pcvpt.callbacks.checkpointing": "pcvpt.callbacks",
    "pcvpt.callbacks.inspection": "pcvpt.callbacks",
    "pcvpt.callbacks.record": "pcvpt.callbacks",
    "pcvpt.data.datamodule": "pcvpt.data",
    "pcvpt.data.demo": "pcvpt.data",
    "pcvpt.data.own": "pcvpt.data",
    "pcvpt.data.table": "pcvpt.data",
    "pcvpt.data.tasks": "pcvpt.data",
    "pcvpt.module": "pcvpt.training.module",
    "pcvpt.recipe": "pcvpt.training.recipe",
}


def current_path(path: str) -> str:
    """Return the present path of the class with ``path``; any other text as it is."""
    module, dot, name = path.rpartition(".")
    if module and not module.startswith("pcvpt."):
        return path
    return f"{_MODULES.get(module, module)}{dot}{FORMER_NAMES.get(name, name)}"


def with_current_paths(content: Any) -> Any:
    """Return ``content``, as YAML holds it, with each path of a class that has moved replaced."""
    if isinstance(content, dict):
        return {key: with_current_paths(value) for key, value in content.items()}
    if isinstance(content, list):
        return [with_current_paths(value) for value in content]
    return current_path(content) if isinstance(content, str) else content
