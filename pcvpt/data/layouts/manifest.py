"""``splits.json``: what a converted task consists of, so that any change of it can be found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pcvpt.errors import UsageError

FILE = "splits.json"

_TEXTS = dict.fromkeys(("task", "source", "pcvpt"), str)
_FORM = {**_TEXTS, "notes": list, "class_names": list, "splits": dict}


class Row(NamedTuple):
    """An image of a converted task."""

    path: str  # in the task's folder
    label: int
    sha256: str  # of the file, in hexadecimal


@dataclass(frozen=True)
class Manifest:
    """A record of a converted task; ``source`` and ``notes`` are those of ``TaskSplits``."""

    task: str
    source: str
    notes: tuple[str, ...]
    pcvpt: str  # version that converted
    class_names: tuple[str, ...]  # in the order of the labels
    splits: Mapping[str, Sequence[Row]]  # by the name of the list file without .txt

    def text(self) -> str:
        """Return the JSON file: one line per image, the same text for the same content."""
        # In ASCII, so that any name on the disk can be written.
        splits = [
            f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]"
            for name, rows in self.splits.items()
        ]
        lines = [f'"{key}": {json.dumps(value)}' for key, value in vars(self).items()]
        # Splits are the last field: one image a line.
        lines[-1] = '"splits": {\n' + ",\n".join(splits) + "\n}"
        return "{\n" + ",\n".join(lines) + "\n}\n"


def read_manifest(folder: Path) -> Manifest | None:
    """Return the content of ``splits.json`` in ``folder``, or None if there is no such file.

    A file that does not have the form that ``Manifest.text`` gives is a ``UsageError``.
    """
    file = folder / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        fault = _fault(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:  # also text that is not UTF-8
        fault = f"cannot be read as JSON ({error})"
    if fault:
        raise UsageError(
            f"{file}: {fault}; convert the task again, or remove the file to read the lists "
            "without it"
        )
    return Manifest(
        content["task"],
        content["source"],
        tuple(content["notes"]),
        content["pcvpt"],
        tuple(content["class_names"]),
        {name: tuple(Row(*row) for row in rows) for name, rows in content["splits"].items()},
    )


def _fault(content: Any) -> str:
    """Return what is wrong with the form of a manifest. Empty if nothing is."""
    if not isinstance(content, dict):
        return "not a JSON object"
    for key, kind in _FORM.items():
        if not isinstance(content.get(key), kind):
            return f"{key!r} must be a {kind.__name__}"
    for key in ("notes", "class_names"):
        if not all(isinstance(text, str) for text in content[key]):
            return f"{key!r} must be a list of texts"
    for name, rows in content["splits"].items():
        for number, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
            if not isinstance(row, list) or [type(field) for field in row] != [str, int, str]:
                return f"entry {number} of {name!r} must be [path, label, sha256]"
    return ""
