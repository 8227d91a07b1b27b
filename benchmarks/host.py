"""Processor time of the host in a training step: ``trainer.fit`` around a model that does nothing.

    python benchmarks/host.py [--backbone vit_base_patch16_224] [--batch 64] [--steps 20]

On a GPU a step may take no longer on the host than its kernels take on the device. Here a
PromptTuner with the callbacks and the logger of the command reads its images from the
cache in memory, but ``forward`` returns the bias of the head, and images are not normalised:
both would be kernels. ``bare`` takes the same steps (loss, backward pass, optimizer) in a plain
loop on images that lie ready. What ``fit`` takes more is the package's and Lightning's share of a
step, and that of reading images. Process time counts all threads, and no waiting.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from fit import Noise, default_callbacks, quiet, tuner_and_noise
from lightning.pytorch.loggers import TensorBoardLogger
from report import hardware, on, options, prepare, show, spread, told, write
from rich.table import Table
from torch import Tensor

import pcvpt
from pcvpt.training.recipe import parameter_groups


class Unchanged(Noise):
    """Noise that reaches the model as it was read: the normalisation is a kernel, too."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


class StepClock(pl.Callback):
    """Notes the process time at the end of every training step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.process_time())


def empty_forward(module: pcvpt.PromptTuner) -> Any:
    """Return a forward pass that gives every image the bias of the head as its logits."""
    bias = module.model.get_parameter("head.bias")

    def forward(images: Tensor) -> Tensor:
        return bias.expand(len(images), -1)

    return forward


def fit(module: pcvpt.PromptTuner, data: Noise, steps: int) -> list[float]:
    """Return the process seconds of each of an epoch's ``steps``, but of the first five."""
    clock = StepClock()
    condense = pcvpt.PromptCondensation(keep=None, prompt_epochs=1)
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            callbacks=[clock, condense, *default_callbacks()],
            logger=TensorBoardLogger(folder, name="run"),
            default_root_dir=folder,
            log_every_n_steps=10,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, datamodule=data)
    assert len(clock.times) == steps
    return [end - start for start, end in pairwise(clock.times[4:])]


def bare(module: pcvpt.PromptTuner, images: Tensor, steps: int) -> list[float]:
    """Return the process seconds of each of ``steps`` in a plain loop, but of the first five."""
    model, recipe = module.model, module.recipes[0]
    optimizer = recipe.optimizer(parameter_groups(model, recipe.weight_decay))
    labels, times = torch.zeros(len(images), dtype=torch.long), []
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()
        times.append(time.process_time())
    return [end - start for start, end in pairwise(times[4:])]


def compare(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return the median seconds of a step of each side in each round."""
    module, noise = tuner_and_noise(args)
    data = Unchanged(*noise.counts, noise.size, batch_size=args.batch, num_workers=0)
    data.input_spec = module.input_spec
    images = next(iter(data.train_dataloader()))[0]
    module.model.forward = empty_forward(module)  # type: ignore[method-assign]
    found: dict[str, dict[str, list[float]]] = {n: {"seconds": []} for n in ("fit", "bare")}
    for turn in range(1 + args.repeats):
        taken = {"fit": fit(module, data, args.steps), "bare": bare(module, images, args.steps)}
        for name, times in taken.items() if turn else ():
            found[name]["seconds"].append(spread(times)[0])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--backbone", default="vit_base_patch16_224", help="timm model.")
    parser.add_argument("--prompts", type=int, default=10, help="Prompts per block.")
    parser.add_argument("--batch", type=int, default=64, help="Batch size.")
    parser.add_argument("--steps", type=int, default=20, help="Steps of each fit.")
    parser.add_argument("--repeats", type=int, default=5, help="Rounds.")
    parser.add_argument(
        "--image_size", type=int, help="Image size in pixels. Default: that of the backbone."
    )
    args = parser.parse_args(arguments)
    args.device, args.images = "cpu", args.batch * args.steps
    device = prepare(args)
    sides = compare(args)
    write("host", device, args, sides=sides)
    table = Table("side", "ms of a step, median (least to most)")
    for name, side in sides.items():
        table.add_row(name, told(spread([1e3 * taken for taken in side["seconds"]])))
    show(f"Steps of {args.batch} images around no model, {on(hardware(device))}", table)


if __name__ == "__main__":
    main()
