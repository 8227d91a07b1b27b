"""What tests compare of a layout's content."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from miniature.fgvc import Written
from pcvpt.data.image_files import load
from pcvpt.data.layouts import Layout, TaskSplits
from pcvpt.data.splits import Item
from pcvpt.data.tasks.table import Task
from pcvpt.errors import UsageError

Spoil = Callable[[Path], object]
"""Makes a file wrong in one way."""


def read(layout: Layout, task: Task, root: Path) -> TaskSplits:
    """Find the task below ``root`` and read it."""
    folder = layout.find(task, root)
    assert folder is not None
    return layout.read(task, folder)


def check(splits: TaskSplits, written: Written) -> None:
    """Compare what was read with what a writer of ``miniature.fgvc`` wrote."""
    assert dict(splits.train) == written.train
    assert (splits.val and dict(splits.val)) == written.val
    assert dict(splits.test) == written.test
    assert splits.class_names == written.class_names


def fails(layout: Layout, task: Task, root: Path, *words: str) -> None:
    """Check that reading fails with an error that has these words in this order."""
    with pytest.raises(UsageError, match="(?s)" + ".*".join(map(re.escape, words))):
        read(layout, task, root)


def labels(items: Iterable[Item] | None) -> list[int]:
    return [item.label for item in items or ()]


def pixels(items: Iterable[Item] | None) -> list[NDArray[np.uint8]]:
    return [np.asarray(load(item.source)) for item in items or ()]


def same(items: Iterable[Item] | None, others: Iterable[Item] | None) -> None:
    """Check that labels and pixels are the same, in the same order."""
    items, others = list(items or ()), list(others or ())
    assert labels(items) == labels(others) != []
    pairs = zip(pixels(items), pixels(others), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def replace_once(file: Path, old: str, new: str) -> None:
    """Replace the first ``old`` in a text file, which must be there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def replaced(old: str, new: str) -> Spoil:
    return lambda file: replace_once(file, old, new)


def filled(content: bytes) -> Spoil:
    return lambda file: file.write_bytes(content)


def matlab(**content: object) -> Spoil:
    return lambda file: savemat(file, content)


def cut(file: Path) -> None:
    """Keep the first half of a file."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each file by its path in ``folder``."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
