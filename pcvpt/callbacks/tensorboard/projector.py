"""Points for TensorBoard's projector.

The writer's own ``add_embedding`` forgets, in a run that is resumed, what it added before.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format  # type: ignore[import-untyped]
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor

from pcvpt.analysis.figures.predictions import thumbnails
from pcvpt.runs.atomic import atomic_file, write_text

_CONFIG = "projector_config.pbtxt"  # the name that TensorBoard looks for
_SIDE = 32  # of a thumbnail, in pixels


def add_points(
    folder: Path,
    name: str,
    points: Tensor,
    rows: Sequence[Sequence[str]],
    pixels: Tensor,
) -> None:
    """Write ``points`` into ``folder`` of a run, in place of any of the same name.

    Args:
        folder: of the run's event file.
        name: under which they are chosen.
        points: ``(b, d)``.
        rows: what is said of each, after a first row that names the columns.
        pixels: ``(b, 3, h, w)``, uint8, what each looks like.
    """
    place = Path("projector") / re.sub(r"\W+", "-", name)
    lines = io.BytesIO()
    np.savetxt(lines, points.numpy(), fmt="%.5g", delimiter="\t")
    with atomic_file(folder / place / "tensors.tsv") as file:
        file.write(lines.getvalue())
    table = "\n".join("\t".join(re.sub(r"\s", " ", cell) for cell in row) for row in rows)
    write_text(folder / place / "metadata.tsv", table + "\n")
    sheet = Image.fromarray(thumbnails(pixels, _SIDE))
    with atomic_file(folder / place / "sprite.png") as file:
        sheet.save(file, "PNG")
    _enter(folder / _CONFIG, name, place)


def _enter(file: Path, name: str, place: Path) -> None:
    config = ProjectorConfig()
    if file.is_file():
        text_format.Parse(file.read_text(), config)
    others = [entry for entry in config.embeddings if entry.tensor_name != name]
    del config.embeddings[:]
    config.embeddings.extend(others)
    entry = config.embeddings.add()
    entry.tensor_name = name
    entry.tensor_path = (place / "tensors.tsv").as_posix()
    entry.metadata_path = (place / "metadata.tsv").as_posix()
    entry.sprite.image_path = (place / "sprite.png").as_posix()
    entry.sprite.single_image_dim.extend([_SIDE, _SIDE])
    write_text(file, text_format.MessageToString(config))
