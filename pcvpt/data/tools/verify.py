"""Checks of a task: its images are undamaged, have the right labels, and are in one split only."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from pcvpt.data.hashes import digest, split_hash
from pcvpt.data.image_files import first_few, in_threads, load, name_of
from pcvpt.data.layouts.lists import JOINT, NAMES
from pcvpt.data.layouts.manifest import FILE, Row, read_manifest
from pcvpt.data.splits import Item, Record, TaskSplits
from pcvpt.data.tasks.table import Task
from pcvpt.data.tools.disk import OnImages, silent
from pcvpt.errors import UsageError

# Names of folders for images of train and val.
_TRAINING = {"train", "train800", "val", "val200", "validation", "trainval", JOINT}

# The first and the last of dSprites' 40 orientations are 0 and 2π, so that images of these two are
# the same in pairs: https://github.com/google-deepmind/dsprites-dataset
_KNOWN_TWINS = ("dsprites_loc", "dsprites_ori")


@dataclass(frozen=True)
class SplitFacts:
    """Facts about a split."""

    split: str  # train, val or test
    images: int
    expected: int  # number of images in the table of tasks
    classes: int  # that have an image in it
    repeated: int  # images that repeat an earlier one with the same label
    hash: str  # of order, labels and contents; empty if a file cannot be read


class Report(NamedTuple):
    """Result of ``verify``."""

    splits: tuple[SplitFacts, ...]
    problems: tuple[str, ...]  # each one sentence, with a few of its images on separate lines
    notes: tuple[str, ...]  # on the images, and known oddities of the published data


class _Checked(NamedTuple):
    """An image of a split, its digest, and what is wrong with it; either may be empty."""

    split: str
    item: Item
    digest: str
    fault: str


def verify(
    task: Task,
    content: TaskSplits,
    folder: Path | None = None,
    jobs: int | None = None,
    on_progress: OnImages = silent,
) -> Report:
    """Decode and hash every image once, and compare the result with the published task.

    Args:
        task: Task as it was published.
        content: Images to check.
        folder: Folder of the images if their layout is ``lists``. The images' folders and
            ``splits.json`` are then checked too. None for other layouts.
        jobs: Number of threads. None leaves it to Python.

    Raises:
        UsageError: For ``jobs`` below 1, and for a ``splits.json`` that cannot be read.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is {jobs}, but must be at least 1")
    splits = {"train": content.train, "val": content.val or (), "test": content.test}
    expected = {"train": task.train, "val": task.val, "test": task.test}
    if content.val is None:
        expected |= {"train": task.train + task.val, "val": 0}
    problems = [
        f"{name} has {len(items):,} images, but {task.name} has {expected[name]:,}"
        for name, items in splits.items()
        if len(items) != expected[name]
    ]
    absent = sorted(set(range(task.num_classes)) - {item.label for item in content.train})
    if absent and task.suite == "fgvc":  # the 800 images of VTAB-1k need not be of all classes
        lines = [f"{label} {content.class_names[label]}" for label in absent]
        problems.append(_problem(f"train has no image of {len(absent)} classes", lines))
    items = [(name, item) for name, items in splits.items() for item in items]
    checked: list[_Checked] = []
    for each in in_threads(partial(_check, Lock()), items, jobs):
        checked.append(each)
        on_progress(len(checked), len(items))
    faults = [each.fault for each in checked if each.fault]
    if faults:
        problems.append(_problem(f"{len(faults):,} of {len(checked):,} images are damaged", faults))
    repeated, twins = _repeats(checked)
    notes = list(content.notes)
    if task.name in _KNOWN_TWINS:
        notes += [f"dSprites is known for this: {each}" for each in twins]
    else:
        problems += twins
    if folder is not None:
        names, rows = dict(zip(splits, NAMES[task.suite], strict=True)), defaultdict(list)
        for each in checked:
            path = Path(os.path.relpath(str(each.item.source), folder)).as_posix()
            rows[names[each.split]].append(Row(path, each.item.label, each.digest))
        problems += _list_problems(rows, folder)
    facts = []
    for name, count in expected.items():
        own = [(each.item.label, each.digest) for each in checked if each.split == name]
        hashed = split_hash(own) if all(content for _, content in own) else ""
        classes = len({label for label, _ in own})
        facts.append(SplitFacts(name, len(own), count, classes, repeated[name], hashed))
    return Report(tuple(facts), tuple(problems), tuple(notes))


def _check(lock: Lock, named: tuple[str, Item]) -> _Checked:
    source, found = named[1].source, ""
    try:
        if isinstance(source, Record):  # stores need not support several threads
            with lock:
                source = Record((source.store[source.index],), 0, source.name)
        found = digest(source)
        load(source)
    except UsageError as error:
        return _Checked(*named, found, str(error))
    return _Checked(*named, found, "")


def _repeats(checked: Iterable[_Checked]) -> tuple[Counter[str], list[str]]:
    """Compare each image with the first of the same content; damaged ones are left out.

    Return how many images of each split repeat one of the same label in it, and the problems.
    """
    first: dict[str, _Checked] = {}
    repeated, pairs = Counter[str](), defaultdict[str, list[str]](list)
    for each in checked:
        if each.fault or (other := first.setdefault(each.digest, each)) is each:
            continue
        pair = " = ".join(
            f"{one.split}: {name_of(one.item.source)}, label {one.item.label}"
            for one in (each, other)
        )
        if each.split != other.split:
            pairs["images are in another split too"].append(pair)
        elif each.item.label != other.item.label:
            pairs["images are in the same split with another label too"].append(pair)
        else:
            repeated[each.split] += 1
    return repeated, [_problem(f"{len(p):,} {head}", p) for head, p in sorted(pairs.items())]


def _problem(head: str, lines: Sequence[str]) -> str:
    """Return a problem: ``head``, and the first few ``lines`` below it."""
    return f"{head}:\n" + first_few([f"  {line}" for line in lines])


def _list_problems(lists: Mapping[str, Sequence[Row]], folder: Path) -> list[str]:
    """Return what contradicts the images' folders or ``splits.json``.

    ``lists`` are the images as they are, by the name of their list.
    """
    found: dict[str, Sequence[str]] = {}
    for name, rows in lists.items():
        wrong = _TRAINING if name == "test" else {"test"}
        found[f"{name}.txt lists images from another split's folder"] = [
            f"{name}.txt: {row.path}" for row in rows if wrong & {*row.path.split("/")[:-1]}
        ]
    if manifest := read_manifest(folder):
        names = sorted(lists.keys() | manifest.splits.keys())
        for name in names:
            changes = _changes(name, lists.get(name, ()), manifest.splits.get(name, ()))
            found[f"{name}.txt and {FILE} differ in {len(changes):,} images"] = changes
    return [_problem(head, lines) for head, lines in found.items() if lines]


def _changes(name: str, rows: Sequence[Row], recorded: Sequence[Row]) -> list[str]:
    """Return in what a list differs from the record of it."""
    old, new = ({row.path: row for row in each} for each in (recorded, rows))
    changes = [f"{path} is in {FILE} only" for path in old if path not in new]
    for path, now in new.items():
        was = old.get(path)
        if was is None:
            changes.append(f"{path} is in {name}.txt only")
        elif now.label != was.label:
            changes.append(f"{path}: label {now.label}, recorded {was.label}")
        elif now.sha256 != was.sha256:
            changes.append(f"{path} is not the file that is recorded")
    if not changes and list(old) != list(new):
        changes = [
            f"{path} is in another place" for path, was in zip(new, old, strict=True) if path != was
        ]
    return changes
