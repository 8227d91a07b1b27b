"""Where the data of the 24 tasks come from.

``archives.csv`` has a row for each file on the web. Addresses, sizes and SHA-256 are those of
TensorFlow Datasets 4.9 (Apache-2.0), MD5 those of torchvision (BSD-3-Clause); tests compare the
rows with both packages. ``sources.yaml`` has the fields of ``Source`` for each data set.
"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml


@dataclass(frozen=True)
class Archive:
    """A file on the web, and the place of its content."""

    url: str
    checksum: str  # SHA-256 in hexadecimal, or MD5 where only that is published
    size: int | None = None  # in bytes, where it is published
    into: str = "."  # folder below the root that the content goes to
    member: str = ""  # what to unpack; if it is an archive, its content. Empty means everything

    @property
    def filename(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2].partition("?")[0]


@dataclass(frozen=True)
class Source:
    """The way to get a data set. Steps and note have ``{root}`` for the root."""

    by: Literal["download", "tfds", "hand"]  # hand: the user is told what to do
    folder: str = ""  # of the data set, below the root; empty for tfds, which names it
    # What a download must leave in the folder; for tfds, what the user must put into manual/<task>.
    required: Sequence[str] = ()
    archives: Sequence[Archive] = ()
    steps: Sequence[str] = ()  # what the user has to do
    note: str = ""  # what the user should know


def _read_sources() -> dict[str, Source]:
    place, archives = Path(__file__).parent, defaultdict[str, list[Archive]](list)
    for row in csv.DictReader((place / "archives.csv").read_text(encoding="utf-8").splitlines()):
        size, into = int(row["size"]) if row["size"] else None, row["into"] or row["folder"]
        archive = Archive(row["url"], row["checksum"], size, into, row["member"])
        archives[row["folder"]].append(archive)
    sources: dict[str, Source] = {}
    for entry in yaml.safe_load((place / "sources.yaml").read_text(encoding="utf-8")):
        own = archives[entry.get("folder", "")]
        packed = [each.filename.removesuffix(".gz") for each in own]
        tasks = entry.pop("tasks")
        sources |= dict.fromkeys(tasks, Source(**{"required": packed, **entry}, archives=own))
    return sources


SOURCES = _read_sources()
"""The sources by the name of the task; tasks of the same data set share one."""

WITHOUT_TENSORFLOW = frozenset({"dsprites", "kitti", "patch_camelyon"})
"""TFDS's builders that prepare their data without TensorFlow; the others read files with it."""
