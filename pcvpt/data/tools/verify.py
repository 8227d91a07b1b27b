"""Whether a task's images are whole, labelled as they should be, and in one split only."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from pcvpt.data.hashes import combine, digest
from pcvpt.data.image_files import load, name_of
from pcvpt.data.layouts.base import TaskSplits
from pcvpt.data.layouts.lists import JOINT
from pcvpt.data.splits import Item, Record
from pcvpt.data.tasks.task import Task
from pcvpt.data.tools import verify_lists
from pcvpt.data.tools.verify_lists import some
from pcvpt.errors import UsageError

OnProgress = Callable[[int, int], None]

# The first and the last of dSprites' 40 orientations are 0 and 2π, so that images of these two are
# the same in pairs: https://github.com/google-deepmind/dsprites-dataset
_TWINS = ("dsprites_loc", "dsprites_ori")

_AT_ONCE = 512  # images that wait for a thread


@dataclass(frozen=True)
class SplitFacts:
    """What was found in a split.

    Args:
        name: train, val or test.
        count: of its images.
        expected: number of images that the table of tasks states.
        classes: number of classes that have an image in it.
        absent: labels of the classes that have none.
        repeated: images that repeat, with the same label, one that stands before them.
        hash: of order, labels and contents, see ``hashes.split_hash``; empty where a file cannot
            be read.
    """

    name: str
    count: int
    expected: int
    classes: int
    absent: tuple[int, ...]
    repeated: int
    hash: str


@dataclass(frozen=True)
class Report:
    """What ``verify`` found; all is well where there are no ``problems``.

    A problem is one sentence, with the first few of the images that it is about on lines of their
    own. ``notes`` are those of the reading, and oddities that the published data are known for.
    """

    task: str
    source: str
    splits: tuple[SplitFacts, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class _Look(NamedTuple):
    """An image's digest, and what is wrong with the image; either may be empty."""

    digest: str
    fault: str


class _Repeats(NamedTuple):
    """Images of equal content: within a split by its name, across splits, with other labels."""

    within: dict[str, int]
    across: list[str]
    relabelled: list[str]


def verify(
    task: Task,
    reading: TaskSplits,
    folder: Path | None = None,
    jobs: int | None = None,
    on_progress: OnProgress | None = None,
) -> Report:
    """Decode and hash every image once and compare what is there with what should be.

    Of an image only the hash is kept.

    Args:
        task: what should be there.
        reading: what is there.
        folder: of a reading in the layout ``lists``, and of no other; what only that layout has
            is then checked too: the images' folders, the joint list and ``splits.json``.
        jobs: number of threads; None leaves it to Python.
        on_progress: called with the number of images done and of all.

    Raises:
        UsageError: for ``jobs`` below 1, and for a ``splits.json`` that cannot be read.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is {jobs}, but must be at least 1")
    splits = {"train": reading.train, "val": reading.val or (), "test": reading.test}
    expected = {"train": task.train, "val": task.val, "test": task.test}
    if reading.val is None:
        expected |= {"train": task.train + task.val, "val": 0}
    problems = _counts(task, splits, expected) + _classes(task, reading)

    joint: tuple[Item, ...] = ()
    if folder is not None:
        joint, faults = verify_lists.joint_list(task, folder)
        problems += faults
    every = {**splits, JOINT: verify_lists.beside(joint, chain(*splits.values()))}
    looks = _look_at_all(every, jobs, on_progress)
    repeats = _repeats(splits, looks)

    problems += _undecodable(every, looks)
    notes = list(reading.notes)
    if task.name in _TWINS:
        notes += [f"as dSprites is known for, {told}" for told in _told(repeats)]
    else:
        problems += _told(repeats)
    if folder is not None:
        digests = {
            item.source: look.digest
            for name, items in every.items()
            for item, look in zip(items, looks[name], strict=True)
            if isinstance(item.source, Path)
        }
        problems += verify_lists.problems(task, reading, folder, joint, digests)
    facts = tuple(
        _facts(task, name, items, expected[name], repeats.within[name], looks[name])
        for name, items in splits.items()
    )
    return Report(task.name, reading.source, facts, tuple(problems), tuple(notes))


def _counts(
    task: Task, splits: Mapping[str, Sequence[Item]], expected: Mapping[str, int]
) -> list[str]:
    return [
        f"{name} has {len(items):,} images, but {task.name} has {expected[name]:,}"
        for name, items in splits.items()
        if len(items) != expected[name]
    ]


def _classes(task: Task, reading: TaskSplits) -> list[str]:
    problems = []
    if len(reading.class_names) != task.num_classes:
        problems.append(
            f"{len(reading.class_names)} classes are named, but {task.name} has {task.num_classes}"
        )
    for name, items in (
        ("train", reading.train),
        ("val", reading.val or ()),
        ("test", reading.test),
    ):
        beyond = sorted({item.label for item in items} - set(range(task.num_classes)))
        if beyond:
            problems.append(
                some(
                    f"{name} has labels outside 0 to {task.num_classes - 1}",
                    list(map(str, beyond)),
                )
            )
    # VTAB-1k takes the first 800 of a set, whichever classes these are of.
    absent = set(range(task.num_classes)) - {item.label for item in reading.train}
    if task.suite == "fgvc" and absent:
        names = dict(enumerate(reading.class_names))
        lines = [f"{label} {names.get(label, '')}".rstrip() for label in sorted(absent)]
        problems.append(some(f"train has no image of {len(absent)} classes", lines))
    return problems


def _look_at_all(
    splits: Mapping[str, Sequence[Item]], jobs: int | None, on_progress: OnProgress | None
) -> dict[str, list[_Look]]:
    total = sum(map(len, splits.values()))
    looks: dict[str, list[_Look]] = {name: [] for name in splits}
    done = 0
    with ThreadPoolExecutor(jobs) as pool:  # decoders and hashes release the interpreter lock
        for name, items in splits.items():
            for look in _in_threads(pool, items):
                looks[name].append(look)
                done += 1
                if on_progress:
                    on_progress(done, total)
    return looks


def _in_threads(pool: ThreadPoolExecutor, items: Sequence[Item]) -> Iterator[_Look]:
    lock = Lock()

    def look(item: Item) -> _Look:
        source, found = item.source, ""
        try:
            if isinstance(source, Record):  # stores need not bear several threads
                with lock:
                    source = Record((source.read(),), 0, source.name)
            found = digest(source)
            load(source)
        except UsageError as error:
            return _Look(found, str(error))
        return _Look(found, "")

    for start in range(0, len(items), _AT_ONCE):
        yield from pool.map(look, items[start : start + _AT_ONCE])


def _undecodable(
    splits: Mapping[str, Sequence[Item]], looks: Mapping[str, Sequence[_Look]]
) -> list[str]:
    faults = [look.fault for each in looks.values() for look in each if look.fault]
    total = sum(map(len, splits.values()))
    return [some(f"{len(faults):,} of {total:,} images are damaged", faults)] if faults else []


def _repeats(
    splits: Mapping[str, Sequence[Item]], looks: Mapping[str, Sequence[_Look]]
) -> _Repeats:
    """Compare each image with the first of the same content; damaged ones are left out."""
    first: dict[str, tuple[str, Item]] = {}
    repeats = _Repeats(dict.fromkeys(splits, 0), [], [])
    for name, items in splits.items():
        for item, look in zip(items, looks[name], strict=True):
            if look.fault:
                continue
            if look.digest not in first:
                first[look.digest] = name, item
                continue
            other_name, other = first[look.digest]
            one = f"{name}: {name_of(item.source)}, label {item.label}"
            two = f"{other_name}: {name_of(other.source)}, label {other.label}"
            if name != other_name:
                repeats.across.append(f"{one} = {two}")
            elif item.label != other.label:
                repeats.relabelled.append(f"{one} = {two}")
            else:
                repeats.within[name] += 1
    return repeats


def _told(repeats: _Repeats) -> list[str]:
    told = []
    if repeats.across:
        told.append(
            some(f"{len(repeats.across):,} images are in another split too", repeats.across)
        )
    if repeats.relabelled:
        head = f"{len(repeats.relabelled):,} images are in the same split with another label too"
        told.append(some(head, repeats.relabelled))
    return told


def _facts(
    task: Task,
    name: str,
    items: Sequence[Item],
    expected: int,
    repeated: int,
    looks: Sequence[_Look],
) -> SplitFacts:
    present = {item.label for item in items}
    absent = tuple(label for label in range(task.num_classes) if label not in present)
    whole = all(look.digest for look in looks)
    pairs = [(item.label, look.digest) for item, look in zip(items, looks, strict=True)]
    hashed = combine(pairs) if whole else ""
    return SplitFacts(name, len(items), expected, len(present), absent, repeated, hashed)
