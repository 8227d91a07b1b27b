"""Checks of a task: its images are undamaged, have the right labels, and are in one split only."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from pcvpt.data.hashes import digest, split_hash
from pcvpt.data.image_files import load, name_of
from pcvpt.data.layouts.lists import JOINT
from pcvpt.data.splits import Item, Record, TaskSplits
from pcvpt.data.tasks.task import Task
from pcvpt.data.tools.disk import OnImages
from pcvpt.data.tools.verify_lists import list_problems, not_among, problem, read_joint_list
from pcvpt.errors import UsageError

# The first and the last of dSprites' 40 orientations are 0 and 2π, so that images of these two are
# the same in pairs: https://github.com/google-deepmind/dsprites-dataset
_KNOWN_TWINS = ("dsprites_loc", "dsprites_ori")

_AT_ONCE = 512  # images that wait for a thread


@dataclass(frozen=True)
class SplitFacts:
    """Facts about a split.

    Args:
        name: Name of the split: train, val or test.
        count: Number of its images.
        expected: Number of images in the table of tasks.
        classes: Number of classes that have an image in it.
        repeated: Number of images that repeat an earlier one with the same label.
        hash: Hash of order, labels and contents, see ``hashes.split_hash``. Empty if a file cannot
            be read.
    """

    name: str
    count: int
    expected: int
    classes: int
    repeated: int
    hash: str


@dataclass(frozen=True)
class Report:
    """Result of ``verify``.

    Args:
        task: Name of the task.
        source: Origin of the images, see ``TaskSplits``.
        splits: Facts about train, val and test.
        problems: Problems, each one sentence with a few of its images on separate lines. Empty if
            everything is as it should be.
        notes: Notes on the images, and known oddities of the published data.
    """

    task: str
    source: str
    splits: tuple[SplitFacts, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class _Checked(NamedTuple):
    """An image's digest, and what is wrong with the image; either may be empty."""

    digest: str
    fault: str


class _Repeats(NamedTuple):
    """Images of equal content: counts within each split, pairs across splits or labels."""

    within: dict[str, int]
    across: list[str]
    relabelled: list[str]


def verify(
    task: Task,
    content: TaskSplits,
    folder: Path | None = None,
    jobs: int | None = None,
    on_progress: OnImages | None = None,
) -> Report:
    """Decode and hash every image once, and compare the result with the published task.

    Args:
        task: Task as it was published.
        content: Images to check.
        folder: Folder of the images if their layout is ``lists``. The images' folders, the joint
            list and ``splits.json`` are then checked too. None for other layouts.
        jobs: Number of threads. None leaves it to Python.
        on_progress: Function to call as images are checked. Default: none.

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
    problems += _wrong_classes(task, content, splits)
    joint: tuple[Item, ...] = ()
    if folder is not None:
        joint, faults = read_joint_list(task, folder)
        problems += faults
    every = {**splits, JOINT: not_among(joint, chain(*splits.values()))}
    checked = _check_images(every, jobs, on_progress)
    repeats = _find_repeats(splits, checked)

    faults = [each.fault for part in checked.values() for each in part if each.fault]
    if faults:
        total = sum(map(len, every.values()))
        problems.append(problem(f"{len(faults):,} of {total:,} images are damaged", faults))
    notes = list(content.notes)
    if task.name in _KNOWN_TWINS:
        notes += [f"dSprites is known for this: {each}" for each in _repeat_problems(repeats)]
    else:
        problems += _repeat_problems(repeats)
    if folder is not None:
        of_files = {
            item.source: each.digest
            for name, items in every.items()
            for item, each in zip(items, checked[name], strict=True)
            if isinstance(item.source, Path)
        }
        problems += list_problems(task, content, folder, joint, of_files)
    facts = []
    for name, items in splits.items():
        labels = [item.label for item in items]
        digests = [each.digest for each in checked[name]]
        hashed = split_hash(zip(labels, digests, strict=True)) if all(digests) else ""
        counts = (len(items), expected[name], len(set(labels)), repeats.within[name])
        facts.append(SplitFacts(name, *counts, hashed))
    return Report(task.name, content.source, tuple(facts), tuple(problems), tuple(notes))


def _wrong_classes(
    task: Task, content: TaskSplits, splits: Mapping[str, Sequence[Item]]
) -> list[str]:
    problems = []
    names = dict(enumerate(content.class_names))
    labels = set(range(task.num_classes))
    if len(names) != task.num_classes:
        problems.append(f"{len(names)} classes are named, but {task.name} has {task.num_classes}")
    for split, items in splits.items():
        beyond = sorted({item.label for item in items} - labels)
        if beyond:
            head = f"{split} has labels outside 0 to {task.num_classes - 1}"
            problems.append(problem(head, list(map(str, beyond))))
    # VTAB-1k takes the first 800 images of a set, from whatever classes they come.
    absent = sorted(labels - {item.label for item in content.train})
    if task.suite == "fgvc" and absent:
        lines = [f"{label} {names.get(label, '')}".rstrip() for label in absent]
        problems.append(problem(f"train has no image of {len(absent)} classes", lines))
    return problems


def _check_images(
    splits: Mapping[str, Sequence[Item]], jobs: int | None, on_progress: OnImages | None
) -> dict[str, list[_Checked]]:
    lock = Lock()

    def check(item: Item) -> _Checked:
        source, found = item.source, ""
        try:
            if isinstance(source, Record):  # stores need not support several threads
                with lock:
                    source = Record((source.read(),), 0, source.name)
            found = digest(source)
            load(source)
        except UsageError as error:
            return _Checked(found, str(error))
        return _Checked(found, "")

    total, done = sum(map(len, splits.values())), 0
    checked: dict[str, list[_Checked]] = {name: [] for name in splits}
    with ThreadPoolExecutor(jobs) as pool:  # decoders and hashes release the interpreter lock
        for name, items in splits.items():
            for start in range(0, len(items), _AT_ONCE):
                for each in pool.map(check, items[start : start + _AT_ONCE]):
                    checked[name].append(each)
                    done += 1
                    if on_progress:
                        on_progress(done, total)
    return checked


def _find_repeats(
    splits: Mapping[str, Sequence[Item]], checked: Mapping[str, Sequence[_Checked]]
) -> _Repeats:
    """Compare each image with the first of the same content; damaged ones are left out."""
    first: dict[str, tuple[str, Item]] = {}
    repeats = _Repeats(dict.fromkeys(splits, 0), [], [])
    for name, items in splits.items():
        for item, each in zip(items, checked[name], strict=True):
            if each.fault:
                continue
            if each.digest not in first:
                first[each.digest] = name, item
                continue
            other_name, other = first[each.digest]
            pair = (
                f"{name}: {name_of(item.source)}, label {item.label} = "
                f"{other_name}: {name_of(other.source)}, label {other.label}"
            )
            if name != other_name:
                repeats.across.append(pair)
            elif item.label != other.label:
                repeats.relabelled.append(pair)
            else:
                repeats.within[name] += 1
    return repeats


def _repeat_problems(repeats: _Repeats) -> list[str]:
    heads = (
        ("images are in another split too", repeats.across),
        ("images are in the same split with another label too", repeats.relabelled),
    )
    return [problem(f"{len(pairs):,} {head}", pairs) for head, pairs in heads if pairs]
