"""A data set that TFDS has prepared: which examples are in which file, and their images."""

import json
from bisect import bisect_right
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pcvpt.data.image_files import named_errors
from pcvpt.data.layouts.tfds.example import Features, bytes_value, features
from pcvpt.data.layouts.tfds.shards import SHARDS, Shard
from pcvpt.errors import UsageError

INFO = "dataset_info.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # TFDS's default


@dataclass(frozen=True)
class DatasetInfo:
    """What ``dataset_info.json`` states of a prepared data set."""

    folder: Path
    name: str
    config: str  # empty if there is none
    version: str  # such as 3.0.2
    file_format: str  # one of SHARDS
    splits: dict[str, list[Shard]]  # in TFDS's order


class Examples:
    """The images of a split; those of one file are read without opening the others."""

    def __init__(self, info: DatasetInfo, split: str) -> None:
        if split not in info.splits:
            raise UsageError(
                f"{info.folder / INFO}: no split {split!r}, there are "
                f"{', '.join(info.splits) or 'none'}; prepare the whole data set"
            )
        self._shards = info.splits[split]
        for shard in self._shards:
            if not shard.path.is_file():
                raise UsageError(f"{shard.path}: missing; copy or prepare the data set again")
        self.folder = info.folder
        self._binary = info.name == "dsprites"  # pixels are 0 and 1; they become black and white
        self._starts = list(accumulate((shard.length for shard in self._shards), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return the bytes of an image file, or pixels (h, w) of a binary image."""
        found = self.features(index)
        try:
            encoded = bytes_value(found["image"])
            if not self._binary:
                return encoded
            with Image.open(BytesIO(encoded)) as image:
                return np.asarray(image, np.uint8) * np.uint8(255)
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise self.damaged(index, repr(error)) from error

    def features(self, index: int) -> Features:
        """Return the features of an example by name."""
        shard, position = self._place(index)
        encoded = shard.read(position)
        try:
            return features(encoded)
        except ValueError as error:
            raise self.damaged(index, str(error)) from error

    def damaged(self, index: int, fault: str) -> UsageError:
        """Return an error that names the file of an example."""
        shard, position = self._place(index)
        return UsageError(
            f"{shard.path}: example {position} is damaged or of another data set ({fault}); "
            "copy or prepare the file again"
        )

    def _place(self, index: int) -> tuple[Shard, int]:
        """Return the shard that holds an example, and the example's place in it."""
        number = bisect_right(self._starts, index) - 1
        return self._shards[number], index - self._starts[number]


def read_info(folder: Path) -> DatasetInfo:
    """Read ``dataset_info.json`` of a folder such as ``cifar100/3.0.2``."""
    file = folder / INFO
    with named_errors(file):
        content = json.loads(file.read_text(encoding="utf-8"))
        name, file_format = content["name"], content.get("fileFormat") or "tfrecord"
        if file_format not in SHARDS:
            raise UsageError(
                f"{file}: the format is {file_format!r}, but {' and '.join(SHARDS)} can be read; "
                "prepare the data set with file_format=array_record"
            )
        return DatasetInfo(
            folder,
            name,
            content.get("configName") or "",
            str(content["version"]),
            file_format,
            {each["name"]: _shards(folder, name, each, file_format) for each in content["splits"]},
        )


def _shards(folder: Path, name: str, split: dict[str, Any], file_format: str) -> list[Shard]:
    lengths = [int(length) for length in split.get("shardLengths", ())]
    if any(length < 0 for length in lengths):
        raise ValueError(f"shardLengths of {split['name']} are {lengths}")
    template = split.get("filepathTemplate") or _TEMPLATE
    total = f"{len(lengths):05}"
    names = {"DATASET": name, "SPLIT": split["name"], "FILEFORMAT": file_format}
    shards = []
    for number, length in enumerate(lengths):
        index = f"{number:0{len(total)}}"
        names |= {"SHARD_INDEX": index, "NUM_SHARDS": total, "SHARD_X_OF_Y": f"{index}-of-{total}"}
        shards.append(SHARDS[file_format](folder / template.format(**names), length))
    return shards
