from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pcvpt.data.tasks.label_rules import (
    clevr_count,
    clevr_dist,
    dsprites_loc,
    dsprites_ori,
    kitti_dist,
)

CAR, VAN, TRUCK, PEDESTRIAN, MISC = 0, 1, 2, 3, 7
CLEVR = {0.5: 0, 8.0: 0, 8.01: 1, 8.5: 1, 8.51: 2, 9.0: 2, 9.01: 3, 9.5: 3, 9.51: 4, 10.0: 4}
KITTI = {-99.0: 0, 0.0: 0, 8.0: 0, 8.01: 1, 20.0: 1, 20.01: 2, 998.9: 2, 999.0: 2, 999.1: 3}


def test_three_to_ten_objects_are_the_eight_classes() -> None:
    assert [clevr_count(objects) for objects in range(3, 11)] == list(range(8))


def test_the_nearest_object_of_a_scene_decides() -> None:
    for depth, label in {**CLEVR, 10.01: 5, 99.9: 5, 100.0: 5}.items():
        assert clevr_dist([100.0, depth, 100.0]) == label


def test_depths_are_compared_in_single_precision() -> None:
    assert np.float32(8.5 + 1e-9) == 8.5
    assert clevr_dist([8.5 + 1e-9]) == 1
    assert clevr_dist([float(np.nextafter(np.float32(8.5), np.float32(9)))]) == 2


@pytest.mark.parametrize("kind", [CAR, VAN, TRUCK])
def test_the_nearest_vehicle_of_an_image_decides(kind: int) -> None:
    for depth, label in KITTI.items():
        assert kitti_dist([kind, CAR, PEDESTRIAN], [depth, 999.5, 1.0]) == label


def test_an_image_without_a_vehicle_is_the_last_class() -> None:
    assert kitti_dist([PEDESTRIAN, MISC], [2.0, 3.0]) == 3
    assert kitti_dist([], []) == 3


def test_two_positions_make_a_class() -> None:
    assert [dsprites_loc(label) for label in range(32)] == [i // 2 for i in range(32)]


def test_two_and_a_half_orientations_make_a_class() -> None:
    labels = [dsprites_ori(label) for label in range(40)]
    assert labels == sorted(labels)
    assert np.bincount(labels).tolist() == [3, 2] * 8


@pytest.mark.parametrize(
    ("rule", "values", "message"),
    [
        *((clevr_count, [n], f"^{n} objects") for n in (0, 2, 11)),
        *((clevr_dist, [d], "nearest") for d in ([], [0.0], [-1.0, 9.0], [100.1], [np.nan])),
        (kitti_dist, ([CAR], [-100.0]), r"z = -100\.0 m"),
        (kitti_dist, ([CAR, CAR], [-1.0]), "2 types of objects, but 1 depths"),
        *((dsprites_ori, [label], rf"label {label} is not in 0\.\.39") for label in (-1, 40)),
    ],
)
def test_what_has_no_class_is_refused(rule: Callable[..., int], values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(*values)
