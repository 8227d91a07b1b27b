"""Tables of all configuration keys, from the parser that the command uses."""

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from typing_extensions import override

from pcvpt import data
from pcvpt.callbacks import __all__ as callbacks
from pcvpt.cli.config_files import BASE, CONFIGS
from pcvpt.cli.main import Command
from pcvpt.cli.option_types import describe, parser_of
from pcvpt.data import ImageDataModule
from pcvpt.training.module import PromptTuner

SECTIONS = {
    "The model": "model.",
    "Condensation": "condense.",
    "The run": "",
    "Lightning's Trainer": "trainer.",
}
_OWN_TASKS = ("ImageFolderDataModule", "ListFileDataModule", "JsonDataModule", "DemoDataModule")
_FROM_DATA = "model.num_classes"  # linked to the data, so no key of a config
_NO_KEYS = ("help", "config", "print_config")
_LIGHTNINGS = ("trainer.", "ckpt_path", "weights_only", "seed_everything")
_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")


class _Found(Exception):
    pass


class _OnlyParser(Command):
    @override
    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise _Found(self._parser("fit"))


def parser() -> ArgumentParser:
    """Return the parser of `pcvpt fit`."""
    try:
        _OnlyParser(
            PromptTuner,
            ImageDataModule,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=["fit"],
        )
    except _Found as found:
        return found.args[0]
    raise RuntimeError("Command no longer parses its arguments by parse_arguments")


def rows(options: ArgumentParser, above: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Give name, kind, default and meaning of each option, in the parser's order.

    Args:
        options: of a command, or of a class.
        above: what stands before the names; base.yaml's values are found by the whole.
    """
    base = _flat(yaml.safe_load((CONFIGS / BASE).read_text(encoding="utf-8")))
    for action in options._actions:
        hint = getattr(action, "_typehint", None)
        name = action.dest
        if name.split(".")[-1] in _NO_KEYS or (hint is None and _is_section(options, name)):
            continue
        if name == _FROM_DATA:
            continue
        kind = describe(hint) if hint is not None else "switch"
        default = base.get(above + name, action.default)
        meaning = _meaning(action.help)
        if name.startswith(_LIGHTNINGS):  # documented at length elsewhere
            meaning = re.split(r"(?<=[.!]) ?(?=[A-Z])", meaning)[0]
        yield above + name, kind, _shown(default), meaning


def table(options: Iterable[tuple[str, str, str, str]]) -> str:
    """Return the rows as Markdown."""
    head = "| key | value | default | meaning |\n|---|---|---|---|\n"
    cells = ([f"`{name}`", kind, default, text] for name, kind, default, text in options)
    return head + "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in cells)


def tables() -> str:
    """Return a section of Markdown for each part of a configuration."""
    every = list(rows(parser()))
    parts = []
    for title, prefix in SECTIONS.items():
        own = [row for row in every if _prefix(row[0]) == prefix]
        own.sort(key=lambda row: row[0].count("."))  # those of phases after those of the whole
        if prefix == "trainer.":
            note = (
                "These are Lightning's; see its documentation. `trainer.max_epochs` is refused.\n"
            )
            inside = "\n".join(f"    {line}" for line in [note, *table(own).splitlines()])
            parts.append(f'## {title}\n\n??? note "All keys of trainer"\n\n{inside}\n')
        else:
            parts.append(f"## {title}\n\n{table(own)}")
    parts.append("## Data\n\n`data` names a class, and `data.init_args` holds what it takes.\n")
    parts += [_of_class(getattr(data, name), "data.init_args.") for name in _OWN_TASKS]
    task = _of_class(data.CUB, "data.init_args.", "Each of the 24 tasks")
    parts.append(task)
    module = importlib.import_module("pcvpt.callbacks")
    parts.append(
        "## Callbacks\n\nIn `trainer.callbacks`, each with `class_path` and `init_args`; those of "
        "base.yaml are there unless you say otherwise.\n"
    )
    for name in callbacks:
        kind = getattr(module, name)
        takes = [n for n in inspect.signature(kind.__init__).parameters if n != "self"]
        if name != "PromptCondensation" and takes:
            parts.append(_of_class(kind, "init_args."))
    return "\n".join(parts)


def shipped() -> str:
    """Return a table of the shipped configs, each with its first comment."""
    lines = ["| `--config` | what it is |", "|---|---|"]
    for path in sorted(CONFIGS.rglob("*.yaml"), key=lambda p: (p.parent.name, p.name)):
        comment = [
            line.lstrip("# ").strip()
            for line in path.read_text(encoding="utf-8").split("\n")
            if line.startswith("#")
        ]
        first = re.split(r"(?<=[.:]) ", " ".join(comment) + " ")[0].rstrip(": ")
        place = path.relative_to(CONFIGS.parent).as_posix()
        lines.append(f"| [{path.name}]({place}) | {_cell(first)} |")
    return "\n".join(lines)


def callbacks_with(name: str, **init_args: Any) -> str:
    """Return base.yaml's callbacks as a part of a config; the one called ``name`` differs."""
    listed = yaml.safe_load((CONFIGS / BASE).read_text(encoding="utf-8"))["trainer"]["callbacks"]
    chosen = next(item for item in listed if item["class_path"].endswith(f".{name}"))
    chosen["init_args"] = {**chosen.get("init_args", {}), **init_args}
    text = yaml.safe_dump({"trainer": {"callbacks": listed}}, sort_keys=False)
    return f"```yaml\n{text}```"


def _of_class(kind: type, above: str, title: str = "") -> str:
    return f"### {title or kind.__name__}\n\n{table(rows(parser_of(kind), above))}"


def _prefix(name: str) -> str:
    first = name.split(".")[0] + "."
    return first if first in ("model.", "condense.", "trainer.", "data.") else ""


def _flat(content: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or "class_path" in content:
        return {above[:-1]: content}
    parts = [_flat(value, f"{above}{key}.") for key, value in content.items()]
    return {name: value for part in parts for name, value in part.items()}


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        name = f"{value['class_path']}".rpartition(".")[2]
        given = ", ".join(f"{k} {v}" for k, v in value.get("init_args", {}).items())
        return f"{name}, {given}" if given and "save_dir" not in given else name
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return ", ".join(item["class_path"].rpartition(".")[2] for item in value)
    plain = {True: "true", False: "false", None: "null"}
    if value is None or isinstance(value, bool):
        return plain[value]
    return "" if str(value) == "==SUPPRESS==" else str(value)


def _meaning(text: str | None) -> str:
    words = " ".join((text or "").split()).replace("%%", "%")
    words = _ROLE.sub(r"`\1`", words).replace("``", "`")
    return words[:1].upper() + words[1:] if words != "==SUPPRESS==" else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _is_section(options: ArgumentParser, name: str) -> bool:
    return any(action.dest.startswith(f"{name}.") for action in options._actions)
