"""A data set that TFDS has prepared: which examples are in which file."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from pcvpt.data.layouts.tfds.example import Features, features
from pcvpt.data.layouts.tfds.shards import SHARDS, Shard
from pcvpt.errors import UsageError

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's own where none is given
_DIGITS = 5  # of a shard's number, at least


class SplitFiles(NamedTuple):
    """Files of a split in TFDS's order, and the number of examples in each."""

    paths: tuple[Path, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """What ``dataset_info.json`` says."""

    folder: Path
    name: str
    config: str
    version: str
    file_format: str
    splits: dict[str, SplitFiles]

    def split(self, name: str) -> SplitFiles:
        """Return the files of a split.

        Raises:
            UsageError: if it was not prepared.
        """
        if name not in self.splits:
            raise UsageError(
                f"{self.folder / 'dataset_info.json'}: no split {name!r}, there are "
                f"{', '.join(self.splits) or 'none'}; prepare the whole data set"
            )
        return self.splits[name]


class Examples:
    """All examples of a split; those of one file are read without opening the others.

    Args:
        prepared: data set.
        split: of it.

    Raises:
        UsageError: for a split that is not there, a missing file, or a reader not installed.
    """

    def __init__(self, prepared: Prepared, split: str) -> None:
        files = prepared.split(split)
        self.folder = prepared.folder
        self.paths = files.paths
        for path in files.paths:
            if not path.is_file():
                raise UsageError(f"{path}: missing; copy or prepare the data set anew")
        kind = SHARDS[prepared.file_format]
        self._shards: Sequence[Shard] = [
            kind(path, length) for path, length in zip(files.paths, files.lengths, strict=True)
        ]
        self._stops = list(accumulate(files.lengths))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __getitem__(self, index: int) -> Features:
        """Return the features of an example by name, still encoded.

        Raises:
            UsageError: naming the file, if it is damaged.
        """
        number, start = self._place(index)
        encoded = self._shards[number].read(index - start)
        try:
            return features(encoded)
        except ValueError as error:
            raise self.damaged(index, str(error)) from error

    def damaged(self, index: int, fault: str) -> UsageError:
        """Return an error that names the file of an example."""
        number, start = self._place(index)
        return UsageError(
            f"{self.paths[number]}: example {index - start} is damaged or of another data set "
            f"({fault}); copy or prepare the file anew"
        )

    def _place(self, index: int) -> tuple[int, int]:
        """Return the number of the shard that holds an example, and where that shard starts."""
        number = bisect_right(self._stops, index)
        return number, self._stops[number - 1] if number else 0


def read_info(folder: Path) -> Prepared:
    """Read ``dataset_info.json`` of a folder such as ``cifar100/3.0.2``.

    Raises:
        UsageError: if it is missing, damaged, or names a format that cannot be read here.
    """
    file = folder / "dataset_info.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        file_format = info.get("fileFormat") or "tfrecord"
        splits = {
            split["name"]: _files(folder, info["name"], split, file_format)
            for split in info["splits"]
        }
        prepared = Prepared(
            folder,
            info["name"],
            info.get("configName") or "",
            str(info["version"]),
            file_format,
            splits,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{file}: not what TFDS writes ({fault}); copy or prepare the data set anew"
        ) from error
    if file_format not in SHARDS:
        raise UsageError(
            f"{file}: the format is {file_format!r}, but {' and '.join(SHARDS)} can be read; "
            "prepare the data set with file_format=array_record"
        )
    return prepared


def read_class_names(folder: Path, feature: str) -> tuple[str, ...] | None:
    """Return the names that TFDS gives the values of a label, if it gives any.

    Raises:
        UsageError: if the file that holds them cannot be read.
    """
    file = folder / f"{feature}.labels.txt"
    try:
        lines = file.read_text(encoding="utf-8").split("\n") if file.is_file() else []
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); prepare the data set anew") from error
    return tuple(line.strip() for line in lines if line.strip()) or None


def _files(folder: Path, name: str, split: dict[str, Any], file_format: str) -> SplitFiles:
    lengths = tuple(int(length) for length in split.get("shardLengths", ()))
    if any(length < 0 for length in lengths):
        raise ValueError(f"shardLengths of {split['name']} are {lengths}")
    template = split.get("filepathTemplate") or _TEMPLATE
    digits = max(_DIGITS, len(str(len(lengths))))
    total = f"{len(lengths):0{digits}}"
    paths = []
    for number in range(len(lengths)):
        index = f"{number:0{digits}}"
        paths.append(
            folder
            / template.format(
                DATASET=name,
                SPLIT=split["name"],
                FILEFORMAT=file_format,
                SHARD_INDEX=index,
                NUM_SHARDS=total,
                SHARD_X_OF_Y=f"{index}-of-{total}",
            )
        )
    return SplitFiles(tuple(paths), lengths)
