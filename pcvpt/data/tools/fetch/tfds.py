"""Data prepared by TensorFlow Datasets, an optional dependency."""

import importlib.util
from pathlib import Path

from pcvpt.data.tasks.table import Task
from pcvpt.data.tools.fetch.sources import WITHOUT_TENSORFLOW
from pcvpt.errors import UsageError

# What TFDS 4.9.10 still prepares, where that is not the version that VTAB-1k is defined on. Splits
# and order are the same, see EQUIVALENT in the layout that reads them.
_LATER = {"pets": "oxford_iiit_pet:4.*"}


def require(task: Task) -> None:
    """Raise a ``UsageError`` if a package that TFDS needs for the data is not installed."""
    builder = task.tfds.partition(":")[0].partition("/")[0]
    needed = {"tensorflow_datasets": "'pcvpt[tfds]'", "array_record": "'pcvpt[tfds]'"}
    if builder not in WITHOUT_TENSORFLOW:
        needed["tensorflow"] = "tensorflow"
    if builder == "diabetic_retinopathy_detection":
        needed["cv2"] = "opencv-python"
    missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(
            f"{task.name}: preparing TFDS's {builder} needs packages that are not installed; "
            f"pip install {' '.join(dict.fromkeys(missing))}. They are needed only this once"
        )


def prepare(task: Task, work: Path, manual: Path | None) -> Path:
    """Have TFDS prepare the data below ``work`` and return their folder.

    Another call uses what was downloaded. Files that TFDS does not download are in ``manual``.
    """
    tfds = importlib.import_module("tensorflow_datasets")
    name, _, version = _LATER.get(task.name, task.tfds).partition(":")
    parts = version.split(".")
    full = f"{name}:{'.'.join(parts + ['*'] * (3 - len(parts)))}"  # TFDS wants three parts
    try:
        # Unlike TFRecord, this format can be read in any order, as data loaders do.
        builder = tfds.builder(full, data_dir=str(work / "tfds"), file_format="array_record")
        builder.download_and_prepare(
            download_dir=str(work / "tfds-downloads"),
            download_config=tfds.download.DownloadConfig(manual_dir=manual and str(manual)),
        )
    except Exception as error:  # anything, also from the decoders that it uses
        raise UsageError(
            f"{task.name}: TFDS cannot prepare {full} ({type(error).__name__}: {error}); what it "
            f"downloaded is kept in {work}, so correct the cause and run it again"
        ) from error
    return Path(builder.data_dir)
