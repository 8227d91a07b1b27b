"""Tables of the configuration's keys, from what ``--help`` prints, and of the shipped configs."""

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from pcvpt import callbacks, data
from pcvpt.cli.config_errors import type_in_words
from pcvpt.cli.config_files import BASE, CONFIGS

Row = tuple[str, str, str, str]
_DATA = ("ImageFolderDataModule", "ListFileDataModule", "JsonDataModule", "DemoDataModule")
_OPTION = re.compile(r"^  (?:-\w \w+, )?--([\w.]+)(.*(?:\n {10,}\S.*)*)", re.M)
_FACTS = re.compile(
    r"(.*?) ?\((?:required, )?(?:type: (.*?))?(?:, )?(?:default: ([^()]*?))?"
    r"(?:, known subclasses: .*)?\)$"
)
_NO_KEY = re.compile(
    r"(.*\.)?(help|config|print_config|num_classes)|trainer|data|condense|model|"
    r"model\.(prompt|finetune)"
)


def tables(help_of_fit: str) -> str:
    """Return a section of Markdown for each part of a configuration.

    Args:
        help_of_fit: What ``pcvpt fit --help`` prints on a very wide terminal.
    """
    sections: dict[str, list[Row]] = {"model": [], "condense": [], "The run": [], "trainer": []}
    for row in rows(help_of_fit):
        sections.get(row[0].partition(".")[0], sections["The run"]).append(row)
    own = {f"data: {name}": getattr(data, name) for name in _DATA}
    own["data: each of the 24 tasks"] = data.CUB
    listed = (name for name in callbacks.__all__ if name != "PromptCondensation")
    own |= {f"callback: {name}": getattr(callbacks, name) for name in listed}
    for title, kind in own.items():
        if inspect.signature(kind).parameters:
            parser = ArgumentParser(exit_on_error=False)
            parser.add_class_arguments(kind, fail_untyped=False)
            sections[title] = list(rows(parser.format_help()))
    return "".join(f"\n## {title}\n\n{_table(found)}" for title, found in sections.items())


def rows(text: str) -> Iterator[Row]:
    """Give key, type, default and meaning of each option that the help ``text`` describes."""
    base = _flat(yaml.safe_load((CONFIGS / BASE).read_text("utf-8")))
    for name, rest in _OPTION.findall(text):
        if _NO_KEY.fullmatch(name):
            continue
        words = re.split(r" {2,}|\n", rest.rstrip(), maxsplit=1)[-1].strip()
        facts = _FACTS.match(words)
        meaning, kind, default = facts.groups() if facts else (words, None, None)
        if name.startswith(("trainer.", "ckpt", "weights")):  # Lightning documents these at length
            meaning = re.split(r"(?<=[.!]) ?(?=[A-Z])", meaning)[0]
        meaning = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", meaning).replace("``", "`")
        yield name, type_in_words(kind or "bool"), _value(base.get(name, default)), meaning


def shipped() -> str:
    """Return a table of the shipped configs, each with the first sentence of its comment."""
    found = []
    for path in sorted(CONFIGS.rglob("*.yaml"), key=lambda path: (path.parent.name, path.name)):
        comment = " ".join(re.findall(r"^# ?(.*)$", path.read_text("utf-8"), re.M))
        place = path.relative_to(CONFIGS.parent).as_posix()
        found.append((f"[{path.name}]({place})", re.split(r"(?<!al)\. ", comment)[0].rstrip(".")))
    return "| `--config` | content |\n|---|---|\n" + _lines(found)


def _table(found: Iterable[Row]) -> str:
    head = "| key | value | default | meaning |\n|---|---|---|---|\n"
    return head + _lines((f"`{key}`", *others) for key, *others in found)


def _lines(found: Iterable[Iterable[str]]) -> str:
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in found
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        given = ", ".join(f"{key} {inner}" for key, inner in value.get("init_args", {}).items())
        return f"{value['class_path'].rpartition('.')[2]} {given and f'({given})'}".strip()
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _flat(content: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or "class_path" in content:
        return {above[:-1]: content}
    parts = [_flat(value, f"{above}{key}.") for key, value in content.items()]
    return {name: value for part in parts for name, value in part.items()}
