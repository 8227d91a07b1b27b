"""How VTAB turns the annotations of the structured data sets into classes.

All rules are those of VTAB (Zhai et al., 2019, https://arxiv.org/abs/1910.04867). Small NORB has
none: its classes are TFDS's ``label_azimuth`` (18) and ``label_elevation`` (9) as they stand. Each
rule raises a ``ValueError`` for an annotation that has no class.

Distances are compared in single precision, in which TFDS stores them: a value that is rounded to a
threshold is in the class below it, regardless of further digits in the original files.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np

_CLEVR_THRESHOLDS = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
_KITTI_THRESHOLDS = (-100.0, 8.0, 20.0, 999.0)
_NO_VEHICLE = 1000.0  # metres; VTAB appends it, so that images without a vehicle are the last class
_VEHICLES = 3  # types below are car, van and truck


def clevr_count(objects: int) -> int:
    """Return the class of a CLEVR scene of 3 to 10 ``objects``, one of 8."""
    label = objects - 3
    if not 0 <= label < 8:
        raise ValueError(f"{objects} objects, but scenes of CLEVR have 3 to 10")
    return label


def clevr_dist(depths: Iterable[float]) -> int:
    """Return the class of a CLEVR scene by its nearest object, one of 6.

    ``depths`` are the third ``pixel_coords`` of each object; the nearest must be in (0, 100].
    """
    nearest = min((float(np.float32(depth)) for depth in depths), default=float("nan"))
    if not _CLEVR_THRESHOLDS[0] < nearest <= _CLEVR_THRESHOLDS[-1]:
        raise ValueError(f"the nearest object has depth {nearest}, which is not in (0, 100]")
    return bisect_left(_CLEVR_THRESHOLDS, nearest) - 1  # the last threshold below


def kitti_dist(types: Sequence[int], depths: Sequence[float]) -> int:
    """Return the class of a KITTI image by its nearest car, van or truck, one of 4; 3 for none.

    Args:
        types: Type of each object, numbered as in TFDS: car, van, truck, pedestrian, person
            sitting, cyclist, tram, misc.
        depths: Depth z of each object in metres, above -100, the third of its ``location``.
    """
    if len(types) != len(depths):
        raise ValueError(f"{len(types)} types of objects, but {len(depths)} depths")
    pairs = zip(types, depths, strict=True)
    vehicles = [float(np.float32(depth)) for kind, depth in pairs if kind < _VEHICLES]
    nearest = min([*vehicles, _NO_VEHICLE])
    if not nearest > _KITTI_THRESHOLDS[0]:
        raise ValueError(f"a vehicle has z = {nearest} m, which is not above -100")
    return bisect_left(_KITTI_THRESHOLDS, nearest) - 1


def dsprites(label: int, values: int) -> int:
    """Return the class of a latent of dSprites, one of 16, which need not be equally wide.

    ``label`` is the number of one of 32 x positions or of 40 orientations (``values``).
    """
    if not 0 <= label < values:
        raise ValueError(f"label {label} is not in 0..{values - 1}")
    return label * 16 // values  # floor(label / (values / 16)), exactly
