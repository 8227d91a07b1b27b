"""Data prepared by TensorFlow Datasets, an optional dependency."""

import importlib
import importlib.util
from pathlib import Path

from pcvpt.data.tasks.task import Task
from pcvpt.data.tools.fetch.sources import WITHOUT_TENSORFLOW
from pcvpt.errors import UsageError

# What TFDS 4.9.10 still prepares, where that is not the version that VTAB-1k is defined on. Splits
# and order are the same, as the layout that reads them says.
_LATER = {"pets": "oxford_iiit_pet:4.*"}


def prepared(task: Task, root: Path) -> Path | None:
    """Return the folder below ``root`` that ``prepare`` made, or None."""
    for full in task.tfds, _LATER.get(task.name, task.tfds):
        name, _, version = full.partition(":")
        found = (root / "tensorflow_datasets" / name).glob(f"{version}/dataset_info.json")
        for file in sorted(found):
            return file.parent
    return None


def require(task: Task) -> None:
    """Complain if a package is missing that TFDS needs to prepare the data of ``task``.

    Raises:
        UsageError: with the command that installs it.
    """
    builder = task.tfds.partition(":")[0].partition("/")[0]
    needed = {"tensorflow_datasets": "'pcvpt[tfds]'", "array_record": "'pcvpt[tfds]'"}
    if builder not in WITHOUT_TENSORFLOW:
        needed["tensorflow"] = "tensorflow"
    if builder == "diabetic_retinopathy_detection":
        needed["cv2"] = "opencv-python"
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"{task.name}: preparing TFDS's {builder} takes packages that are not installed; "
            f"pip install {' '.join(dict.fromkeys(missing))}. It takes them once: the prepared "
            "data are read without TensorFlow"
        )


def prepare(task: Task, work: Path, manual: Path | None) -> Path:
    """Have TFDS prepare the data below ``work`` and return their folder there.

    Args:
        task: one of VTAB-1k.
        work: where TFDS downloads and prepares; another call goes on with what was downloaded.
        manual: folder of files that TFDS does not fetch itself.

    Raises:
        UsageError: with what TFDS says, whatever goes wrong there.
    """
    require(task)
    tfds = importlib.import_module("tensorflow_datasets")
    name = _LATER.get(task.name, task.tfds)
    try:
        # Unlike TFRecord, this format is read at random, as data loaders do.
        builder = tfds.builder(_full(name), data_dir=str(work / "tfds"), file_format="array_record")
        builder.download_and_prepare(
            download_dir=str(work / "tfds-downloads"),
            download_config=tfds.download.DownloadConfig(
                manual_dir=None if manual is None else str(manual)
            ),
        )
    except Exception as error:  # anything, also from the decoders that it uses
        raise UsageError(
            f"{task.name}: TFDS cannot prepare {name} ({type(error).__name__}: {error}); what "
            f"it downloaded is kept in {work}, so run it again when that is mended"
        ) from error
    return Path(builder.data_dir)


def _full(name: str) -> str:
    """Write a version in three parts, as TFDS wants it: ``3.*`` becomes ``3.*.*``."""
    name, _, version = name.partition(":")
    parts = version.split(".")
    return f"{name}:{'.'.join(parts + ['*'] * (3 - len(parts)))}"
