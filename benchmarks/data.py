"""Images per second from the disk to a normalised batch, with and without a cache.

    python benchmarks/data.py [--images 1000] [--workers 2] [--epochs 3]

The plain side is what most code does: torchvision's ``ImageFolder`` and transforms in a DataLoader.
All sides read the same JPEG files (made here, 500 x 375, a class folder each), in one process, turn
by turn, one epoch at a time. Prints a table and writes ``benchmarks/results/data_<device>.json``.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torchvision
from report import hardware, on, options, prepare, show, told, write
from rich.table import Table
from synthetic import write_photograph
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from pcvpt.data import ImageFolderDataModule, InputSpec
from pcvpt.data.transforms import IMAGENET_MEAN, IMAGENET_STD

SIDES = ("ImageFolder", "no cache", "memory", "disk")
SPEC = InputSpec((224, 224), IMAGENET_MEAN, IMAGENET_STD)


def write_images(root: Path, count: int) -> None:
    """Write ``count`` JPEG files for training, of 70 KB each, and ten more."""
    draw = np.random.default_rng(0)
    for number in range(count + 10):
        split = "train" if number < count else "val"
        path = root / split / f"class{number % 10}" / f"{number:05}.jpg"
        write_photograph(path, draw, (500, 375))


def plain_loader(root: Path, crop: bool, workers: int) -> DataLoader:
    if crop:
        steps = [v2.Resize(256), v2.RandomCrop(224), v2.RandomHorizontalFlip()]
    else:
        steps = [v2.Resize((224, 224))]
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    normalize = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    dataset = ImageFolder(root / "train", v2.Compose([*steps, *to_tensor, normalize]))
    return DataLoader(
        dataset, 64, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def batches(
    task: ImageFolderDataModule | None, loader: DataLoader, device: torch.device
) -> Iterable[torch.Tensor]:
    """Yield normalised images on the device, as a training step gets them."""
    for images, labels in loader:
        images = images.to(device, non_blocking=True)
        yield images if task is None else task.on_after_batch_transfer([images, labels], 0)[0]


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(root: Path, crop: bool, args: argparse.Namespace, device: torch.device) -> list[dict]:
    sides: dict[str, tuple[ImageFolderDataModule | None, DataLoader]] = {}
    rows: dict[str, dict] = {}
    for side in SIDES:
        before, start, task = peak_megabytes(), time.perf_counter(), None
        if side == "ImageFolder":
            loader = plain_loader(root, crop, args.workers)
        else:
            task = ImageFolderDataModule(
                str(root),
                num_workers=args.workers,
                protocol="vpt",
                resize="crop" if crop else "squash",
                augment=crop,
                cache="none" if side == "no cache" else side,
                cache_folder=str(root / "cache"),
            )
            task.input_spec = SPEC
            loader = task.train_dataloader()
        sides[side] = task, loader
        rows[side] = {
            "side": side,
            "preparation_s": time.perf_counter() - start,
            "peak_memory_more_mb": peak_megabytes() - before,
            "cached_mb": sum(p.starts[-1] for p in task._cached.values()) / 1e6 if task else 0.0,
            "rates": [],
        }
    for epoch in range(args.epochs + 1):
        for side, (task, loader) in sides.items():
            start = time.perf_counter()
            count = sum(len(images) for images in batches(task, loader, device))
            if device.type == "cuda":
                torch.cuda.synchronize()
            if epoch:  # the first starts workers and fills the page cache
                rows[side]["rates"].append(count / (time.perf_counter() - start))
    plain = rows["ImageFolder"]["rates"]
    for row in rows.values():
        ratios = [ours / theirs for ours, theirs in zip(row["rates"], plain, strict=True)]
        row["images_per_s"] = statistics.median(row.pop("rates"))
        row["ratio"] = statistics.median(ratios)
        row["ratio_min"], row["ratio_max"] = min(ratios), max(ratios)
        row["transform"] = "crop, augmented" if crop else "squash"
    return list(rows.values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args(arguments)
    args.threads = args.threads or torch.get_num_threads()  # decoding is not what is compared
    device = prepare(args)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), args.images)
        rows = [row for crop in (False, True) for row in measure(Path(folder), crop, args, device)]
    write("data", device, args, torchvision=torchvision.__version__, rows=rows)
    title = f"{args.images} JPEG files, batch 64, {args.workers} workers, {on(hardware(device))}"
    table = Table()
    for column in ("transform", "side", "images/s", "ratio", "cache MB", "prepared in s"):
        table.add_column(column, justify="left" if column in ("transform", "side") else "right")
    for row in rows:
        ratio = told((row["ratio"], row["ratio_min"], row["ratio_max"]), digits=1)
        numbers = f"{row['images_per_s']:,.0f}", ratio, f"{row['cached_mb']:,.0f}"
        table.add_row(row["transform"], row["side"], *numbers, f"{row['preparation_s']:.1f}")
    show(title, table)


if __name__ == "__main__":
    main()
