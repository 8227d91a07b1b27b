"""The two kinds of file in which TFDS stores examples: TFRecord and ArrayRecord."""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pcvpt.data.image_files import named_errors
from pcvpt.data.layouts.base import OpenFile
from pcvpt.errors import UsageError

_HEADER = 12  # TFRecord: length (8 bytes) and its checksum (4), then data and its checksum (4)
_FOOTER = 4


@dataclass(eq=False)
class TFRecordShard(OpenFile):
    """A TFRecord file, mapped into memory, so that examples that are not needed are not read.

    The format has no index: the first use passes over the file from one header to the next.
    """

    length: int  # number of examples that it should hold
    starts: NDArray[np.int64] | None = None  # of the examples; pickled too

    def read(self, index: int) -> memoryview:
        """Return an encoded example, which shares the file's memory."""
        data: memoryview = self.handle
        if self.starts is None:
            self.starts = self._index(data)
        return data[self.starts[index] + _HEADER : self.starts[index + 1] - _FOOTER]

    @override
    def open(self) -> memoryview:
        with self.path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _index(self, data: memoryview) -> NDArray[np.int64]:
        starts = np.zeros(self.length + 1, np.int64)
        position = 0
        for number in range(self.length):
            if position + _HEADER > len(data):
                raise _wrong_count(self.path, number, self.length)
            (size,) = struct.unpack_from("<Q", data, position)
            position += _HEADER + size + _FOOTER
            if position > len(data):
                raise UsageError(
                    f"{self.path}: it ends within example {number} of {self.length}; copy or "
                    "prepare the file again"
                )
            starts[number + 1] = position
        if position != len(data):
            raise _wrong_count(self.path, f"more than {self.length}", self.length)
        return starts


@dataclass(eq=False)
class ArrayRecordShard(OpenFile):
    """An ArrayRecord file of ``length`` examples.

    Its records are compressed, so that a label cannot be read without the image beside it.
    """

    length: int

    def read(self, index: int) -> bytes:
        """Return an encoded example; see ``TFRecordShard.read``."""
        reader, lock = self.handle
        with lock, named_errors(self.path):
            (example,) = reader.read([index])
        return bytes(example)

    @override
    def open(self) -> tuple[Any, Lock]:
        try:  # optional, and not available on all systems
            from array_record.python import array_record_module
        except ImportError as error:
            raise UsageError(
                f"{self.path}: reading array_record files needs a library; "
                "pip install 'pcvpt[tfds]', or prepare the data set as tfrecord"
            ) from error
        # The library takes a file that is missing or damaged for one without examples.
        self.path.open("rb").close()
        reader = array_record_module.ArrayRecordReader(
            str(self.path), options="readahead_buffer_size:0"
        )
        count = reader.num_records()
        if count != self.length:
            raise _wrong_count(self.path, count, self.length)
        return reader, Lock()


Shard = TFRecordShard | ArrayRecordShard
SHARDS: dict[str, type[Shard]] = {"tfrecord": TFRecordShard, "array_record": ArrayRecordShard}
"""Kinds of shard by the name of the format, which is the file's suffix too."""


def _wrong_count(path: Path, found: int | str, expected: int) -> UsageError:
    return UsageError(
        f"{path}: {found} examples, but dataset_info.json says {expected}; the file is truncated, "
        "damaged or of another version: copy or prepare it again"
    )
