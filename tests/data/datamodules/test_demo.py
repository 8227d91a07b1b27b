import pickle

import numpy as np
import pytest
from numpy.typing import NDArray

from pcvpt.data import DemoDataModule
from pcvpt.data.splits import Item


def _pixels(items: tuple[Item, ...]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(item.source) for item in items])


@pytest.fixture(scope="module")
def demo() -> DemoDataModule:
    return DemoDataModule()


def test_the_demo_is_balanced_and_no_image_is_in_two_splits(demo: DemoDataModule) -> None:
    images: set[bytes] = set()
    for items, count in (demo.splits.train, 100), (demo.splits.val, 20), (demo.splits.test, 100):
        assert np.bincount([item.label for item in items]).tolist() == [count] * 10
        assert _pixels(items).shape == (10 * count, 28, 28)
        pixels = {image.tobytes() for image in _pixels(items)}
        assert not images & pixels
        images |= pixels


def test_the_demo_names_its_ten_classes(demo: DemoDataModule) -> None:
    assert demo.num_classes == 10
    assert (demo.class_names[0], demo.class_names[-1]) == ("T-shirt/top", "Ankle boot")


def test_splits_survive_pickling(demo: DemoDataModule) -> None:
    copy = pickle.loads(pickle.dumps(demo.splits))
    assert np.array_equal(_pixels(copy.val), _pixels(demo.splits.val))
