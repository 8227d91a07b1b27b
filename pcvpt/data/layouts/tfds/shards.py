"""The two kinds of file in which TFDS stores examples: TFRecord and ArrayRecord.

A shard opens its file when it is first used, pickles without it, and opens it again in a forked
process.
"""

import mmap
import os
import struct
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcvpt.data.layouts.base import named_errors
from pcvpt.errors import UsageError

_HEADER = 12  # TFRecord: length (8 bytes) and its checksum (4), then data and its checksum (4)
_FOOTER = 4


class TFRecordShard:
    """A TFRecord file, mapped into memory, so that parts that are not needed are not read.

    The format has no index: the first use passes over the file from one header to the next.
    ``length`` is the number of examples that it should hold.
    """

    _starts: NDArray[np.int64] | None = None
    _map: memoryview | None = None

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self.length = length

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # keeps the index

    def read(self, index: int) -> memoryview:
        """Return an encoded example, which shares the file's memory."""
        if self._map is None:
            with named_errors(self.path), self.path.open("rb") as file:  # mmap refuses empty ones
                self._map = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if self._starts is None:
            self._starts = self._index(self._map)
        start, stop = self._starts[index], self._starts[index + 1]
        return self._map[start + _HEADER : stop - _FOOTER]

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


class ArrayRecordShard:
    """An ArrayRecord file of ``length`` examples.

    Its records are compressed, so that a label cannot be read without the image beside it.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self.length = length
        self._owner = 0
        self._lock = Lock()
        self._reader: Any = None

    def __reduce__(self) -> tuple[type["ArrayRecordShard"], tuple[Path, int]]:
        return ArrayRecordShard, (self.path, self.length)

    def read(self, index: int) -> bytes:
        """Return an encoded example; see ``TFRecordShard.read``."""
        if self._owner != os.getpid():  # a reader's threads do not survive a fork
            self._lock, self._reader, self._owner = Lock(), None, os.getpid()
        with self._lock, named_errors(self.path):
            if self._reader is None:
                self._reader = self._open()
            (example,) = self._reader.read([index])
        return bytes(example)

    def _open(self) -> Any:
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
        return reader


SHARDS: dict[str, type[TFRecordShard] | type[ArrayRecordShard]] = {
    "tfrecord": TFRecordShard,
    "array_record": ArrayRecordShard,
}
"""Kinds of shard by the name of the format, which is the file's suffix too."""


def _wrong_count(path: Path, found: int | str, expected: int) -> UsageError:
    return UsageError(
        f"{path}: {found} examples, but dataset_info.json says {expected}; the file is truncated, "
        "damaged or of another version: copy or prepare it again"
    )
