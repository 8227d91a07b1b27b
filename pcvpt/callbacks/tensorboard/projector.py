"""Points for TensorBoard's projector.

``SummaryWriter.add_embedding`` loses, in a resumed run, the points that it added before.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from google.protobuf import text_format  # type: ignore[import-untyped]
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig
from torch import Tensor

from pcvpt.analysis.forward_pass import Outputs
from pcvpt.callbacks.tensorboard.probe_images import ProbeImages
from pcvpt.runs.atomic import atomic_file, write_text

_CONFIG = "projector_config.pbtxt"  # the name that TensorBoard expects
_SIDE = 32  # of a thumbnail, in pixels


def add_points(
    folder: Path, name: str, images: ProbeImages, outputs: Outputs, class_names: Sequence[str]
) -> None:
    """Write the features of ``images`` as points beside the events in ``folder``."""
    rows = [("class", "number", "predicted", "prediction")]
    guesses = outputs.logits.argmax(1).tolist()
    for label, guess in zip(images.labels.tolist(), guesses, strict=True):
        verdict = "right" if label == guess else "wrong"
        rows.append((class_names[label], str(label), class_names[guess], verdict))
    table = "\n".join("\t".join(re.sub(r"\s", " ", cell) for cell in row) for row in rows)
    place = Path("projector") / re.sub(r"\W+", "-", name)
    with atomic_file(folder / place / "tensors.tsv") as file:
        np.savetxt(file, outputs.features.numpy(), fmt="%.5g", delimiter="\t")
    write_text(folder / place / "metadata.tsv", table + "\n")
    with atomic_file(folder / place / "sprite.png") as file:
        Image.fromarray(thumbnails(images.pixels, _SIDE)).save(file, "PNG")
    _enter(folder / _CONFIG, name, place)


def thumbnails(pixels: Tensor, side: int) -> np.ndarray:
    """Return images ``(b, 3, h, w)``, uint8, row by row on a square, white sheet, uint8."""
    small = F.interpolate(pixels.float(), (side, side), mode="bilinear", antialias=True)
    rows = math.ceil(math.sqrt(len(small)))
    sheet = torch.full((rows * rows, 3, side, side), 255.0)
    sheet[: len(small)] = small
    tiles = sheet.view(rows, rows, 3, side, side).permute(0, 3, 1, 4, 2)
    return tiles.reshape(rows * side, rows * side, 3).round().byte().numpy()


def _enter(file: Path, name: str, place: Path) -> None:
    config = ProjectorConfig()
    if file.is_file():
        text_format.Parse(file.read_text(encoding="utf-8"), config)
    entries = {entry.tensor_name: entry for entry in config.embeddings}
    entries[name] = EmbeddingInfo(
        tensor_name=name,
        tensor_path=f"{place.as_posix()}/tensors.tsv",
        metadata_path=f"{place.as_posix()}/metadata.tsv",
        sprite={
            "image_path": f"{place.as_posix()}/sprite.png",
            "single_image_dim": [_SIDE, _SIDE],
        },
    )
    write_text(file, text_format.MessageToString(ProjectorConfig(embeddings=entries.values())))
