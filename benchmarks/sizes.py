"""What a run leaves on the disk: its checkpoints, its adapter, and what saving the backbone takes.

    python benchmarks/sizes.py [--backbone vit_base_patch16_224] [--classes 196]

For each number of prompts a run of one step in each phase, SGD with momentum, 30 % of the prompts
kept, with the callbacks that write these files; weights are random. Beside them stands the state
dict of the whole model, saved alone. Sizes do not depend on the device. Writes
``benchmarks/results/sizes_<device>.json``.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from fit import quiet
from report import hardware, on, options, prepare, show, write
from rich.table import Table

import pcvpt
from pcvpt.callbacks import AdapterWriter, PhaseCheckpoint
from pcvpt.data import ImageDataModule, Item, Splits

FILES = {
    "prompt_last": "checkpoints/prompt-last.ckpt",
    "finetune_last": "checkpoints/finetune-last.ckpt",
    "adapter": "adapter.safetensors",
}
KEEP = 0.3


class Few(ImageDataModule):
    """Two images for each split, of ``classes`` classes that have names."""

    def __init__(self, classes: int, **given: Any) -> None:
        super().__init__(batch_size=2, num_workers=0, **given)
        self.count = classes

    def read_splits(self) -> Splits:
        draw = np.random.default_rng(0)
        items = tuple(
            Item(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8), label) for label in (0, 1)
        )
        names = tuple(f"a class of things number {number}" for number in range(self.count))
        return Splits(items, items, items, names)


def measure(args: argparse.Namespace, prompts: int, folder: Path) -> dict[str, Any]:
    """Run with ``prompts`` per block; return the bytes of each file."""
    sgd = partial(torch.optim.SGD, momentum=0.9)
    recipe = pcvpt.PhaseRecipe(sgd, base_lr=0.1, weight_decay=0.001, warmup_epochs=0)
    module = pcvpt.PromptTuner(
        num_classes=args.classes,
        prompt=recipe,
        finetune=recipe,
        backbone=args.backbone,
        num_prompts=prompts,
        pretrained=False,
        image_size=args.image_size,
    )
    condense = pcvpt.PromptCondensation(keep=KEEP, prompt_epochs=1, finetune_epochs=1)
    trainer = pl.Trainer(
        accelerator="cuda" if args.device == "cuda" else "cpu",
        devices=1,
        default_root_dir=folder,
        callbacks=[condense, PhaseCheckpoint(), AdapterWriter()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=2,
    )
    trainer.fit(module, datamodule=Few(args.classes))
    found = {name: (folder / file).stat().st_size for name, file in FILES.items()}
    whole = folder / "whole.pth"
    torch.save(module.model.state_dict(), whole)
    kept = sum(module.model.prompts.counts())
    return {"prompts": prompts, "kept": kept, **found, "whole": whole.stat().st_size}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--classes", type=int, default=196)
    parser.add_argument("--prompts", type=int, nargs="+", default=[10, 50, 200])
    args = parser.parse_args(arguments)
    device = prepare(args)
    rows = []
    for prompts in args.prompts:
        with tempfile.TemporaryDirectory() as folder, quiet():
            rows.append(measure(args, prompts, Path(folder)))
    write("sizes", device, args, keep=KEEP, rows=rows)
    table = Table()
    for column in ("prompts", *FILES, "whole"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(str(row["prompts"]), *(f"{row[name]:,}" for name in (*FILES, "whole")))
    show(f"Bytes; {args.backbone}, {args.classes} classes, {on(hardware(device))}", table)


if __name__ == "__main__":
    main()
