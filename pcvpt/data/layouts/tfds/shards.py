"""The two kinds of file in which TFDS stores examples: TFRecord and ArrayRecord.

A shard opens its file on first use, pickles without it, and opens it anew in a forked process.
"""

import mmap
import os
import struct
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pcvpt.errors import UsageError

try:
    from array_record.python import array_record_module
except ImportError:  # optional, and not to be had on all systems
    array_record_module = None

_HEADER = 12  # TFRecord: length (8 bytes) and its checksum (4), then data and its checksum (4)
_FOOTER = 4


class Shard(Protocol):
    """A file of examples."""

    def read(self, index: int) -> bytes | memoryview:
        """Return an encoded example.

        Raises:
            UsageError: naming the file, if it is missing, damaged, or holds another number of
                examples than it should.
        """


class TFRecordShard:
    """A TFRecord file, mapped into memory, so that parts nobody looks at are not read.

    The format has no index: the first use passes over the file from one header to the next.

    Args:
        path: of the file.
        length: number of examples that it should hold.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self.length = length
        self._starts: NDArray[np.int64] | None = None
        self._map: memoryview | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # keeps the index

    def read(self, index: int) -> memoryview:
        """See ``Shard.read``; the memory is the file's own."""
        data = self._mapped()
        if self._starts is None:
            self._starts = self._index(data)
        start, stop = self._starts[index], self._starts[index + 1]
        return data[start + _HEADER : stop - _FOOTER]

    def _mapped(self) -> memoryview:
        if self._map is None:
            try:
                with self.path.open("rb") as file:
                    self._map = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except (OSError, ValueError) as error:  # ValueError: an empty file
                raise UsageError(
                    f"{self.path}: cannot be read ({error}); prepare the data set anew"
                ) from error
        return self._map

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
                    f"{self.path}: ends within example {number} of {self.length}, the file is "
                    "truncated or damaged; copy or prepare it anew"
                )
            starts[number + 1] = position
        if position != len(data):
            raise _wrong_count(self.path, f"more than {self.length}", self.length)
        return starts


class ArrayRecordShard:
    """An ArrayRecord file.

    Its records are compressed, so that a label cannot be read without the image beside it.

    Args:
        path: of the file.
        length: number of examples that it should hold.

    Raises:
        UsageError: if the library that reads such files is not installed.
    """

    def __init__(self, path: Path, length: int) -> None:
        if array_record_module is None:
            raise UsageError(
                f"{path}: reading array_record files needs a library; "
                "pip install 'pcvpt[tfds]', or prepare the data set as tfrecord"
            )
        self.path = path
        self.length = length
        self._owner = 0
        self._lock = Lock()
        self._reader: Any = None

    def __reduce__(self) -> tuple[type["ArrayRecordShard"], tuple[Path, int]]:
        return ArrayRecordShard, (self.path, self.length)

    def read(self, index: int) -> bytes:
        """See ``Shard.read``."""
        if self._owner != os.getpid():  # a reader's threads do not outlive a fork
            self._lock, self._reader, self._owner = Lock(), None, os.getpid()
        with self._lock:
            if self._reader is None:
                self._reader = self._open()
            try:
                (example,) = self._reader.read([index])
            except (RuntimeError, IndexError, ValueError) as error:
                raise UsageError(
                    f"{self.path}: example {index} cannot be read ({error}); "
                    "copy or prepare the file anew"
                ) from error
        return bytes(example)

    def _open(self) -> Any:
        # The library takes a file that is missing or damaged for one without examples.
        if not os.access(self.path, os.R_OK):
            raise UsageError(f"{self.path}: cannot be read; copy or prepare the file anew")
        try:
            reader = array_record_module.ArrayRecordReader(
                str(self.path), options="readahead_buffer_size:0"
            )
            count = reader.num_records()
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"{self.path}: cannot be read ({error}); copy or prepare the file anew"
            ) from error
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
        "damaged or of another version: copy or prepare it anew"
    )
