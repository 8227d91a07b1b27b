"""``splits.json``: what a converted task consists of, so that any change of it can be found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pcvpt.errors import UsageError

FILE = "splits.json"


class Row(NamedTuple):
    """An image: its path in the task's folder, its label, the SHA-256 of its file in hex."""

    path: str
    label: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was converted.

    Args:
        task: its name in the table.
        source: of the reading that was converted.
        notes: of that reading.
        pcvpt: the version that converted.
        class_names: in the order of the labels.
        splits: images in their order, by the name of the list file without ``.txt``.
    """

    task: str
    source: str
    notes: tuple[str, ...]
    pcvpt: str
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Row, ...]]

    def text(self) -> str:
        """Return the JSON file: one line per image, the same text for the same content."""
        head = {
            "task": self.task,
            "source": self.source,
            "notes": self.notes,
            "pcvpt": self.pcvpt,
            "class_names": self.class_names,
        }
        lines = [f"{_json(key)}: {_json(value)}" for key, value in head.items()]
        splits = [
            f"{_json(name)}: [\n" + ",\n".join(map(_json, rows)) + "\n]"
            for name, rows in self.splits.items()
        ]
        lines.append('"splits": {\n' + ",\n".join(splits) + "\n}")
        return "{\n" + ",\n".join(lines) + "\n}\n"


def read_manifest(folder: Path) -> Manifest | None:
    """Return what ``splits.json`` in ``folder`` says, or None where there is no such file.

    Raises:
        UsageError: naming the file, if it cannot be read or is not of the form that ``text`` gives.
    """
    file = folder / FILE
    try:
        parsed = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except OSError as error:
        _bad(file, f"cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        _bad(file, f"not JSON ({error})")
    return _checked(parsed, file)


def _checked(parsed: Any, file: Path) -> Manifest:
    if not isinstance(parsed, dict):
        _bad(file, "not a JSON object")
    for key in ("task", "source", "pcvpt"):
        if not isinstance(parsed.get(key), str):
            _bad(file, f"{key!r} must be a text")
    for key in ("notes", "class_names"):
        if not _all_text(parsed.get(key)):
            _bad(file, f"{key!r} must be a list of texts")
    splits = parsed.get("splits")
    if not isinstance(splits, dict):
        _bad(file, "'splits' must be an object")
    for name, rows in splits.items():
        if not isinstance(rows, list):
            _bad(file, f"split {name!r} must be a list")
        for number, row in enumerate(rows, start=1):
            if not _is_row(row):
                _bad(file, f"entry {number} of {name!r} must be [path, label, sha256]")
    return Manifest(
        parsed["task"],
        parsed["source"],
        tuple(parsed["notes"]),
        parsed["pcvpt"],
        tuple(parsed["class_names"]),
        {name: tuple(Row(*row) for row in rows) for name, rows in splits.items()},
    )


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and [type(field) for field in row] == [str, int, str]


def _all_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _bad(file: Path, fault: str) -> NoReturn:
    raise UsageError(
        f"{file}: {fault}; convert the task again, or remove the file to read the lists without it"
    )


def _json(value: object) -> str:
    return json.dumps(value)  # in ASCII, so that any name on the disk can be written
