from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pcvpt.data.tasks.label_rules import (
    clevr_count,
    clevr_dist,
    dsprites,
    kitti_dist,
)

CAR, VAN, TRUCK, PEDESTRIAN, MISC = 0, 1, 2, 3, 7
NEAR = {0.5: 0, 8.0: 0, 8.01: 1, 8.5: 1, 8.51: 2, 9.0: 2, 9.01: 3, 9.5: 3, 9.51: 4, 10.0: 4}
CLEVR = {**NEAR, 10.01: 5, 99.9: 5, 100.0: 5}
KITTI = {-99.0: 0, 0.0: 0, 8.0: 0, 8.01: 1, 20.0: 1, 20.01: 2, 998.9: 2, 999.0: 2, 999.1: 3}


def test_counts_positions_and_orientations_become_classes() -> None:
    assert [clevr_count(objects) for objects in range(3, 11)] == list(range(8))
    assert [dsprites(label, 32) for label in range(32)] == [i // 2 for i in range(32)]
    labels = [dsprites(label, 40) for label in range(40)]
    assert labels == sorted(labels)
    assert np.bincount(labels).tolist() == [3, 2] * 8


def test_the_nearest_object_decides_in_single_precision() -> None:
    for depth, label in CLEVR.items():
        assert clevr_dist([100.0, depth, 100.0]) == label
    assert np.float32(8.5 + 1e-9) == 8.5
    assert clevr_dist([8.5 + 1e-9]) == 1
    assert clevr_dist([float(np.nextafter(np.float32(8.5), np.float32(9)))]) == 2


def test_the_nearest_vehicle_decides_or_that_there_is_none() -> None:
    for kind in CAR, VAN, TRUCK:
        for depth, label in KITTI.items():
            assert kitti_dist([kind, CAR, PEDESTRIAN], [depth, 999.5, 1.0]) == label
    assert kitti_dist([PEDESTRIAN, MISC], [2.0, 3.0]) == kitti_dist([], []) == 3


@pytest.mark.parametrize(
    ("rule", "values", "message"),
    [
        *((clevr_count, [n], f"^{n} objects") for n in (0, 2, 11)),
        *((clevr_dist, [d], "nearest") for d in ([], [0.0], [-1.0, 9.0], [100.1], [np.nan])),
        (kitti_dist, ([CAR], [-100.0]), r"z = -100\.0 m"),
        (kitti_dist, ([CAR, CAR], [-1.0]), "2 types of objects, but 1 depths"),
        *((dsprites, [label, 40], rf"label {label} is not in 0\.\.39") for label in (-1, 40)),
    ],
)
def test_what_has_no_class_is_refused(rule: Callable[..., int], values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(*values)
