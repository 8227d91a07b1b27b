"""Getting a task's data: from its authors, through TFDS, or by steps for the user."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from pcvpt.data import layouts
from pcvpt.data.tasks.table import Task
from pcvpt.data.tools.disk import check_space, disk_errors, silent
from pcvpt.data.tools.fetch.archives import SUFFIXES, unpack
from pcvpt.data.tools.fetch.download import download, kind_of
from pcvpt.data.tools.fetch.sources import SOURCES, Source
from pcvpt.data.tools.fetch.tfds import prepare, require
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import link_file
from pcvpt.runs.lock import RunLock

Via = Literal["authors", "tfds"]
OnProgress = Callable[[str, int, int | None], None]
"""Called with what is being done, the bytes that are done and those of all, None if not known."""

_LAYOUTS = {"authors": ("original", "torchvision"), "tfds": ("tfds",)}


class Outcome(NamedTuple):
    """What ``get`` has achieved."""

    text: str  # where the data lie, or the steps to follow
    folder: Path | None = None  # None where the user has to follow the steps first


def get(
    task: Task,
    root: Path,
    on_progress: OnProgress = silent,
    via: Via | None = None,
    keep_archives: bool = False,
) -> Outcome:
    """Bring the data of ``task`` into a folder below ``root``, which is an atomic operation.

    What was downloaded lies in ``<root>/.downloads`` until the data set is complete, so that the
    next call resumes there. A file that the user puts there is taken, if its checksum is right.
    Tasks of the same data set share what exists. Nothing that exists is ever changed.

    Args:
        task: One of the 24 tasks.
        root: Folder of all tasks.
        via: ``authors`` for the files as the authors give them, ``tfds`` to have TensorFlow
            Datasets prepare them (VTAB-1k). None takes what is usual for the task, unless the
            task is on disk in any layout.
        keep_archives: Whether to keep what was downloaded.

    Raises:
        UsageError: Naming what cannot be obtained and a remedy.
    """
    source = _source(task, via)
    if settled := _settled(task, source, root, via):
        return settled
    downloads = root / ".downloads"
    work = downloads / (source.folder or f"tfds-{task.tfds.partition(':')[0].replace('/', '-')}")
    with _locked(work):
        if settled := _settled(task, source, root, via):  # another process may have got it
            return settled
        if source.by == "download":
            folder = root / source.folder
            if folder.exists():
                missing = [name for name in source.required if not (folder / name).exists()]
                raise UsageError(
                    f"{folder}: exists, but is not the complete data set (missing: "
                    f"{', '.join(missing) or 'unknown'}); move it away or give another root"
                )
            made = _assemble(task, source, root, work, on_progress)
        else:
            require(task)  # before anything is downloaded for it
            made = prepare(task, work, _manual(task, root) if source.required else None)
            folder = root / "tensorflow_datasets" / made.relative_to(work / "tfds")
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            made.rename(folder)
        if not keep_archives:
            shutil.rmtree(work, ignore_errors=True)
    if downloads.is_dir() and not any(downloads.iterdir()):
        downloads.rmdir()
    check = _command("verify", task, root)
    return Outcome(f"{task.title} is in {folder}. Check it with `{check}`", folder)


def plan(task: Task, root: Path, via: Via | None = None) -> str:
    """Return several lines that say what ``get`` would do, and do nothing."""
    source = _source(task, via)
    lines = [f"{task.title}, {task.homepage}", f"Licence: {task.licence}"]
    if source.note:
        lines.append(source.note.format(root=root))
    if settled := _settled(task, source, root, via):
        lines.append(settled.text)
    else:
        for each in source.archives:
            size = "size not published" if each.size is None else f"{each.size:,} bytes"
            lines.append(f"Download {each.url}: {size}, checked by its {kind_of(each.checksum)}")
        if source.by == "tfds":
            lines.append(f"Prepare {task.tfds} with TFDS, which may download more")
        lines.append(f"Place: {root / (source.folder or 'tensorflow_datasets')}")
    return "\n".join(lines)


def _source(task: Task, via: Via | None) -> Source:
    source = SOURCES[task.name]
    if via == "tfds" and not task.tfds:
        raise UsageError(f"via is 'tfds', but {task.name} is of FGVC; leave out via")
    if via == "authors" and source.by == "tfds":
        raise UsageError(f"via is 'authors', but {task.name} is only read as TFDS prepares it")
    return Source("tfds") if via == "tfds" and source.by != "tfds" else source


def _settled(task: Task, source: Source, root: Path, via: Via | None) -> Outcome | None:
    """Return the outcome if the data are there, or if the user has to follow steps first."""
    for found in layouts.find_all(task, root):
        if not via or found.layout.name in _LAYOUTS[via]:
            return Outcome(f"{task.name} is there already: {found}; nothing was done", found.folder)
    steps = [each.format(root=root) for each in source.steps]
    if source.by == "tfds":
        if all((_manual(task, root) / name).exists() for name in source.required):
            return None
        steps.append(f"Have it prepared: {_command('get', task, root)}")
    elif source.by == "download":
        return None
    steps.append(f"Check it: {_command('verify', task, root)}")
    lines = [f"{number}. {each}" for number, each in enumerate(steps, start=1)]
    head = f"{task.title} cannot be downloaded by a program (licence: {task.licence}). Steps:"
    return Outcome("\n".join([head, *lines]))


def _assemble(task: Task, source: Source, root: Path, work: Path, on_progress: OnProgress) -> Path:
    """Download the archives into ``work``, unpack them, and return the data set's folder there."""
    known = sum(each.size or 0 for each in source.archives)
    parts = [work / f"{each.filename}{end}" for each in source.archives for end in ("", ".part")]
    arrived = sum(part.stat().st_size for part in parts if part.is_file())
    # Images hardly shrink when packed, so that the files take about as much room once more.
    check_space(work, max(0, known - arrived) + known, "the data set")
    for each in source.archives:
        report = partial(on_progress, f"downloading {each.filename}")
        file = work / each.filename
        try:
            download(each.url, file, each.checksum, each.size, report)
        except UsageError as error:
            note = f". {source.note.format(root=root)}" if source.note else ""
            raise UsageError(
                f"{error}\nIf it cannot be downloaded from here: get {each.filename} by other "
                f"means, put it at {file}, then run `{_command('get', task, root)}` again{note}"
            ) from error
    unpacked = work / "unpacked"
    with disk_errors(unpacked):
        shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
        for each in source.archives:
            place = unpacked / each.into
            place.mkdir(parents=True, exist_ok=True)
            on_progress(f"unpacking {each.filename}", 0, None)
            _unpack(work / each.filename, place, each.member)
    for name in source.required:
        if not (unpacked / source.folder / name).exists():
            raise UsageError(
                f"{' and '.join(each.url for each in source.archives)}: no {name} in what was "
                "downloaded; its authors have changed it, so get the data set yourself"
            )
    return unpacked / source.folder


def _unpack(file: Path, place: Path, member: str) -> None:
    if not file.name.endswith(SUFFIXES):
        link_file(file, place / file.name)  # so that a kept file does not take its room twice
    elif member.endswith(SUFFIXES):  # an archive in the archive
        with TemporaryDirectory(dir=file.parent) as outer:
            unpack(file, Path(outer), member)
            unpack(Path(outer, member), place)
    else:
        unpack(file, place, member)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working in ``folder``, which is made if it is missing."""
    lock = RunLock()
    with disk_errors(folder):
        holder = lock.take(folder)
    if holder is not None:
        raise UsageError(
            f"{folder}: {holder} is getting this data set; wait for it to end, and run it again"
        )
    try:
        yield
    finally:
        lock.release()


def _manual(task: Task, root: Path) -> Path:
    """Return the folder where the user puts files that TFDS does not download."""
    return root / "manual" / task.name


def _command(name: str, task: Task, root: Path) -> str:
    return f"pcvpt data {name} {task.name} --root {shlex.quote(str(root))}"
