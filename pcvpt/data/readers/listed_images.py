"""Images that a file lists: reading the file, finding the images, and naming their classes."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pcvpt.data.image_files import first_few, named_errors, printable
from pcvpt.data.splits import Item
from pcvpt.errors import UsageError

_OUTSIDE = re.compile(r"[\\/]|[A-Za-z]:|(.*[\\/])?\.\.([\\/]|$)", re.DOTALL)


def read_text(file: Path) -> str:
    """Return the text of a UTF-8 file, without a byte order mark; errors are ``UsageError``."""
    with named_errors(file, "give a file that can be"):
        try:
            return file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"{file}: not UTF-8 text; save it as UTF-8 or get it again") from error


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file, each without blanks around it; empty lines stay."""
    lines = [line.strip() for line in read_text(file).rstrip().split("\n")]
    if not any(lines):
        raise UsageError(f"{file}: empty; get it again")
    return lines


def listed_path(images: Path, name: str, where: str) -> Path:
    """Return the path of the image ``name`` in ``images``; links in it may lead anywhere.

    A name that leads out of ``images`` is a ``UsageError``, which begins with ``where``.
    """
    if _OUTSIDE.match(name):
        raise UsageError(
            f"{where}: {name!r} leads out of {images}; list images by their path in that folder"
        )
    return images / name


def require_images(paths: Iterable[Path], file: Path) -> None:
    """Raise a ``UsageError`` with the number of missing images of ``file``, and the first few.

    ``paths`` may be a dict from paths to their places in the file, which the error then names.
    """
    paths = paths if isinstance(paths, Mapping) else dict.fromkeys(paths, "")
    # Unlike Path.is_file, os.path's gives False also for names that cannot exist.
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        named = [f"  {f'{paths[path]}: ' if paths[path] else ''}{path}" for path in missing]
        raise UsageError(
            f"{file}: {len(missing)} of {len(paths)} listed images do not exist; "
            "add them or correct the file:\n" + first_few(named)
        )


def subfolder(folder: Path, name: str) -> Path:
    """Return the folder ``name`` in ``folder``, or the one of the same name in that."""
    found = find_subfolder(folder, name)
    if found is None:
        raise UsageError(f"{folder / name}: no such folder; the images are expected there")
    return find_subfolder(found, name) or found  # archives are sometimes unpacked so


def find_subfolder(folder: Path, name: str) -> Path | None:
    """Return the folder ``name`` in ``folder``, or None; upper and lower case do not count."""
    if (folder / name).is_dir():
        return folder / name
    with named_errors(folder, "give an existing folder that may be read"):
        like = [path for path in folder.iterdir() if path.name.lower() == name.lower()]
    return min((path for path in like if path.is_dir()), default=None)


def folder_names(items: Iterable[Item], images: Path, ids: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes: those of the folders below ``images`` for each one alone.

    If only some of the classes have such a folder, they are named after their ``ids``.
    """
    folders: dict[int, set[Path]] = defaultdict(set)
    for source, label in items:
        folders[label].add(Path(str(source)).parent)
    own = {
        label: printable(next(iter(parents)).name)
        for label, parents in folders.items()
        if len(parents) == 1 and images not in parents
    }
    if not len(folders) == len(own) == len(set(own.values())):
        return tuple(ids)
    return tuple(own.get(label, class_id) for label, class_id in enumerate(ids))
