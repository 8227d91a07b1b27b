"""Runs the builders of tensorflow_datasets on what ``vtab.py`` has written, without TensorFlow."""

import io
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from miniature import vtab
from pcvpt.data.tasks.table import Task

_SHARDS = 2


def prepare(name: str, source: Path, data_dir: Path, file_format: str, num_shards: int = 1) -> Any:
    """Return TFDS's builder of ``name`` after it has prepared what a writer left in ``source``."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with _without_tensorflow():
        builder = tfds.builder(name, data_dir=data_dir)
        module = __import__(type(builder).__module__, fromlist=["tf"])
        builder._make_download_manager = lambda **kwargs: _Local(source)
        with mock.patch.object(module, "tf", _TENSORFLOW, create=True):
            builder.download_and_prepare(
                file_format=file_format,
                download_config=tfds.download.DownloadConfig(num_shards=num_shards),
            )
    return builder


class Prepared:
    """Miniature sets that TFDS's builders have prepared, each when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.builders: dict[tuple[str, str], Any] = {}

    def builder(self, task: Task, file_format: str = "tfrecord") -> Any:
        name = task.tfds.partition(":")[0]
        if (name, file_format) not in self.builders:
            source = self.root / "source" / name.replace("/", "_")
            if not source.exists():
                vtab.WRITERS[task.name](source)
            self.builders[name, file_format] = prepare(
                name, source, self.root / file_format, file_format, _SHARDS
            )
        return self.builders[name, file_format]

    def copy(self, task: Task, folder: Path, file_format: str = "tfrecord") -> Path:
        """Return a copy of a prepared set that may be spoilt."""
        made = Path(self.builder(task, file_format).data_dir)
        return Path(shutil.copytree(made, folder / "cifar100" / made.name))


class _Local:
    """Gives builders the files in a folder, where they ask for what they would download."""

    downloaded_size = 0
    register_checksums = False

    def __init__(self, folder: Path) -> None:
        self.manual_dir = folder

    def download(self, resources: Any) -> Any:
        if isinstance(resources, Mapping):
            return {key: self.download(each) for key, each in resources.items()}
        name = str(resources).rpartition("/")[2].partition("?")[0].removesuffix(".gz")
        return self.manual_dir / name if (self.manual_dir / name).exists() else self.manual_dir

    download_and_extract = download

    def iter_archive(self, folder: Path) -> Iterator[tuple[str, io.BytesIO]]:
        inner = folder / "raw"
        for path in sorted(inner.rglob("*.*")):
            yield path.relative_to(inner).as_posix(), io.BytesIO(path.read_bytes())


@contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Do in Python the few things for which builders and writers of TFDS need TensorFlow."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import file_adapters
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.core.utils import gcs_utils

    cv2 = SimpleNamespace(
        IMREAD_COLOR=1,
        COLOR_BGR2RGB=4,
        imdecode=lambda data, _: np.asarray(Image.open(io.BytesIO(data)))[..., ::-1],
        cvtColor=lambda image, _: np.ascontiguousarray(image[..., ::-1]),
    )
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(file_adapters, "tf", _TENSORFLOW))
        stack.enter_context(mock.patch.object(gcs_utils, "_is_gcs_disabled", True))
        stack.enter_context(
            mock.patch.object(image_feature._ImageEncoder, "_encode_image", _encode_png)
        )
        stack.enter_context(mock.patch.object(tfds.core.lazy_imports, "cv2", cv2))
        yield


def _encode_png(_: object, pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "png")
    return buffer.getvalue()


class _TFRecordWriter:
    """Writes the framing of https://www.tensorflow.org/tutorials/load_data/tfrecord.

    The checksums, which our reader does not check and which take Python long, are zeros.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb")  # noqa: SIM115

    def __enter__(self) -> "_TFRecordWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, example: bytes) -> None:
        self._file.write(struct.pack("<Q4x", len(example)) + example + bytes(4))

    def flush(self) -> None:
        self._file.flush()


_TENSORFLOW = SimpleNamespace(
    io=SimpleNamespace(
        TFRecordWriter=_TFRecordWriter,
        gfile=SimpleNamespace(
            GFile=lambda path, mode="r": open(path, mode),  # noqa: SIM115
            exists=lambda path: Path(path).exists(),
            listdir=lambda path: [each.name for each in Path(path).iterdir()],
            glob=lambda pattern: [
                str(each) for each in Path("/").glob(str(pattern).removeprefix("/"))
            ],
        ),
    )
)
