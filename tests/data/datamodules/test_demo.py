import numpy as np

from pcvpt.data import DemoDataModule


def test_the_demo_is_balanced_and_no_image_is_in_two_splits() -> None:
    demo, images = DemoDataModule(), set[bytes]()
    for items, count in (demo.splits.train, 100), (demo.splits.val, 20), (demo.splits.test, 100):
        assert np.bincount([item.label for item in items]).tolist() == [count] * 10
        pixels = np.stack([np.asarray(item.source) for item in items])
        assert pixels.shape == (10 * count, 28, 28)
        assert not images & {image.tobytes() for image in pixels}
        images |= {image.tobytes() for image in pixels}
    assert demo.num_classes == 10
    assert "2,200" in demo.source
