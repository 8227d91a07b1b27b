"""Choose the demo's images from Fashion-MNIST: ``python experiments/demo_data/make.py``.

Writes ``pcvpt/data/assets/fashion_mnist_demo.npz``, the same bytes every time: 1,000 train and 200
val images, disjoint, from the original's 60,000 training images; 1,000 test images from its 10,000
test images. All classes have equally many.
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

from assets import fashion_mnist

SEED = 0
CLASSES = 10
TARGET = ROOT / "pcvpt" / "data" / "assets" / "fashion_mnist_demo.npz"


def choose(
    labels: np.ndarray, counts: dict[str, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return disjoint, class-balanced, ascending positions in ``labels`` for each split."""
    chosen: dict[str, list[int]] = {split: [] for split in counts}
    for label in range(CLASSES):
        order = rng.permutation(np.flatnonzero(labels == label)).tolist()
        for split, count in counts.items():
            chosen[split] += [order.pop() for _ in range(count // CLASSES)]
    return {split: np.sort(positions) for split, positions in chosen.items()}


def main() -> None:
    """Write the archive and print its size."""
    rng = np.random.default_rng(SEED)
    arrays = {}
    for source, counts in ("train", {"train": 1000, "val": 200}), ("t10k", {"test": 1000}):
        images, labels = fashion_mnist(source)
        for split, positions in choose(labels, counts, rng).items():
            arrays[f"{split}_images"] = images[positions]
            arrays[f"{split}_labels"] = labels[positions].astype(np.uint8)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
