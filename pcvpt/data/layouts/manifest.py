"""``splits.json``: what a converted task consists of, so that any change of it can be found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pcvpt.errors import UsageError

FILE = "splits.json"


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
    splits: Mapping[str, tuple[Row, ...]]  # by the name of the list file without .txt

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
        splits = {
            name: tuple(Row(str(path), int(label), str(sha256)) for path, label, sha256 in rows)
            for name, rows in content["splits"].items()
        }
        fields: dict[str, Any] = {key: str(content[key]) for key in ("task", "source", "pcvpt")}
        fields |= {key: tuple(map(str, content[key])) for key in ("notes", "class_names")}
        manifest = Manifest(**fields, splits=splits)
        for key, value in json.loads(manifest.text()).items():
            if content[key] != value:  # it was of another type
                raise TypeError(f"{key!r} has another form")
    except FileNotFoundError:
        return None
    except Exception as error:  # a file of any form
        raise UsageError(
            f"{file}: not as pcvpt writes it ({type(error).__name__}: {error}); convert the task "
            "again, or remove the file to read the lists without it"
        ) from error
    return manifest
