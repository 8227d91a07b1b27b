"""Getting a task's data: from their authors, through TFDS, or by telling people what to do."""

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pcvpt.data.tasks.task import Task
from pcvpt.data.tools.fetch.partial_file import writing
from pcvpt.data.tools.fetch.sources import SOURCES, Source
from pcvpt.data.tools.fetch.staging import Progress, alone, assemble
from pcvpt.data.tools.fetch.tfds import prepare, prepared, require
from pcvpt.errors import UsageError

Via = Literal["authors", "tfds"]


@dataclass(frozen=True)
class Got:
    """A data set that is there now; ``new`` is False if it was there before.

    ``str`` of it is what to tell the user.
    """

    folder: Path
    new: bool
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Manual:
    """What people have to do themselves, in numbered steps; ``str`` of it is that text."""

    text: str

    def __str__(self) -> str:
        return self.text


def get(
    task: Task,
    root: Path,
    on_progress: Progress | None = None,
    via: Via | None = None,
    keep_archives: bool = False,
) -> Got | Manual:
    """Bring the data of ``task`` into a folder below ``root``, whole or not at all.

    What was downloaded lies in ``<root>/.downloads`` until the data set is whole, so that the
    next call goes on where one broke off. A file put there by hand is taken, if its checksum is
    right. Tasks of the same data set share what there is.

    Args:
        task: one of the 24.
        root: the folder of all tasks.
        on_progress: called now and then.
        via: ``authors`` for the files as the authors give them, ``tfds`` to have TensorFlow
            Datasets prepare them (VTAB-1k). None takes what is usual for the task.
        keep_archives: leave what was downloaded where it is.

    Raises:
        UsageError: naming what cannot be had and the remedy; what exists is never changed.
    """
    source = _source(task, via)
    there = _there(task, source, root)
    if there is not None:
        return _already(task, root, there)
    if source.by == "hand" or _waits(task, source, root):
        return Manual(_steps(task, source, root))
    downloads = root / ".downloads"
    work = downloads / (source.folder or f"tfds-{task.tfds.partition(':')[0].replace('/', '-')}")
    with alone(work):
        there = _there(task, source, root)  # another process may have got it
        if there is not None:
            return _already(task, root, there)
        if source.by == "download":
            folder = _download(task, source, root, work, on_progress)
        else:
            folder = _through_tfds(task, source, root, work, on_progress)
        if not keep_archives:
            shutil.rmtree(work, ignore_errors=True)
    if downloads.is_dir() and not any(downloads.iterdir()):
        downloads.rmdir()
    unchecked = [each.filename for each in source.archives if not (each.sha256 or each.md5)]
    warning = f"There is no published checksum of {', '.join(unchecked)}. " if unchecked else ""
    return Got(folder, True, f"{task.title} is in {folder}. {warning}{_check(task, root)}")


def plan(task: Task, root: Path, via: Via | None = None) -> str:
    """Say on several lines what ``get`` would do, and do nothing.

    Raises:
        UsageError: for a ``via`` that does not exist for the task.
    """
    source = _source(task, via)
    lines = [f"{task.title}, {task.homepage}", f"Licence: {task.licence}"]
    if source.note:
        lines.append(source.note.format(root=root))
    there = _there(task, source, root)
    if there is not None:
        return "\n".join([*lines, f"It is there already, in {there}"])
    if source.by == "hand" or _waits(task, source, root):
        return "\n".join([*lines, _steps(task, source, root)])
    for each in source.archives:
        size = "size not published" if each.size is None else f"{each.size:,} bytes"
        checked = "no published checksum; its counts are checked by `pcvpt data verify`"
        if each.sha256 or each.md5:
            checked = f"checked by its {'SHA-256' if each.sha256 else 'MD5'}"
        lines.append(f"Download {each.url}: {size}, {checked}")
    if source.by == "tfds":
        lines.append(f"Prepare {task.tfds} with TFDS, which may download more")
    place = "tensorflow_datasets" if source.by == "tfds" else source.folder
    return "\n".join([*lines, f"Place: {root / place}"])


def _source(task: Task, via: Via | None) -> Source:
    source = SOURCES[task.name]
    if via == "tfds" and not task.tfds:
        raise UsageError(f"via is 'tfds', but {task.name} is of FGVC; leave out via")
    if via == "authors" and source.by == "tfds":
        raise UsageError(f"via is 'authors', but {task.name} is read as TFDS prepares it only")
    return Source("tfds") if via == "tfds" and source.by != "tfds" else source


def _there(task: Task, source: Source, root: Path) -> Path | None:
    """Return the folder of the data set if it is there."""
    if source.by == "tfds":
        return prepared(task, root)
    folder = root / source.folder
    missing = [name for name in source.holds if not (folder / name).exists()]
    if not folder.exists() or (source.by == "hand" and missing):
        return None
    if missing:
        raise UsageError(
            f"{folder}: exists, but holds no {', '.join(missing)}; move it away or give another "
            "root, and the data set is got whole"
        )
    return folder


def _already(task: Task, root: Path, folder: Path) -> Got:
    text = f"{task.title} is there already, in {folder}; nothing was done. {_check(task, root)}"
    return Got(folder, False, text)


def _download(
    task: Task, source: Source, root: Path, work: Path, on_progress: Progress | None
) -> Path:
    stage = assemble(source.archives, work, _remedy(task, source, root), on_progress)
    _require_all(stage / source.folder, source)
    return _place(stage / source.folder, root / source.folder)


def _through_tfds(
    task: Task, source: Source, root: Path, work: Path, on_progress: Progress | None
) -> Path:
    require(task)  # before anything is downloaded for it
    manual = _by_hand(task, root) if source.holds else None
    if source.archives and not _complete(_by_hand(task, root), source):
        manual = assemble(source.archives, work, _remedy(task, source, root), on_progress)
        _require_all(manual, source)
    made = prepare(task, work, manual)
    return _place(made, root / "tensorflow_datasets" / made.relative_to(work / "tfds"))


def _place(made: Path, folder: Path) -> Path:
    """Give a whole data set its name, in one step."""
    if folder.exists():
        raise UsageError(f"{folder}: has come into being meanwhile; nothing was changed there")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        made.rename(folder)
    return folder


def _require_all(folder: Path, source: Source) -> None:
    for name in source.holds:
        if not (folder / name).exists():
            raise UsageError(
                f"{' and '.join(each.url for each in source.archives)}: no {name} in what was "
                "fetched; its authors have changed it, so get the data set by hand"
            )


def _by_hand(task: Task, root: Path) -> Path:
    return root / "manual" / task.name


def _complete(folder: Path, source: Source) -> bool:
    return all((folder / name).exists() for name in source.holds)


def _waits(task: Task, source: Source, root: Path) -> bool:
    """Whether TFDS cannot begin before people have done something."""
    return bool(source.steps) and not _complete(_by_hand(task, root), source)


def _steps(task: Task, source: Source, root: Path) -> str:
    """Return the numbered steps, the last of which are commands of this package."""
    last = [f"Check it: {_command('verify', task, root)}"]
    if source.by == "tfds":
        last.insert(0, f"Have it prepared: {_command('get', task, root)}")
    steps = [each.format(root=root) for each in source.steps] + last
    lines = [f"{number}. {each}" for number, each in enumerate(steps, start=1)]
    head = f"{task.title} cannot be fetched by a program (licence: {task.licence}). By hand:"
    return "\n".join([head, *lines])


def _remedy(task: Task, source: Source, root: Path) -> str:
    note = f". {source.note.format(root=root)}" if source.note else ""
    return f"run `{_command('get', task, root)}` again{note}"


def _check(task: Task, root: Path) -> str:
    return f"Check it with `{_command('verify', task, root)}`"


def _command(name: str, task: Task, root: Path) -> str:
    return f"pcvpt data {name} {task.name} --root {shlex.quote(str(root))}"
