"""What the board costs: a run with ``PromptInspector`` against the same run without it.

    python benchmarks/inspector.py [--tasks demo vit] [--prompt_epochs 20] [--finetune_epochs 5]

A run has both phases, with the other callbacks and the logger of ``configs/base.yaml``. ``demo`` is
the demo's model, images and validation every fifth epoch; ``vit`` is ViT-S/16 on images of noise in
memory, validated after each epoch. The two sides take turns in one process. Beside the seconds that
passed stand those of the processor, which do not see what else the machine does: with one thread,
their ratio is what the board costs. ``inside`` is the processor's time within the inspector's own
hooks in each run with it, of which what does not grow with the length of a run is the most.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from fit import default_callbacks, quiet, tuner_and_noise
from lightning.pytorch.loggers import TensorBoardLogger
from report import hardware, on, options, prepare, ratio, show, spread, told, write
from rich.table import Table
from timing import alternate

import pcvpt
from pcvpt.callbacks import PromptInspector
from pcvpt.data import DemoDataModule, ImageDataModule

HOOKS = (
    *("setup", "on_train_start", "on_before_optimizer_step", "on_train_epoch_end"),
    *("on_prompts_trained", "on_prompts_masked", "on_fit_end"),
)
Make = Callable[[], tuple[pcvpt.PromptTuner, ImageDataModule]]


class Timed(PromptInspector):
    """Adds up the processor's seconds in each hook."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = dict.fromkeys(HOOKS, 0.0)
        for hook in HOOKS:
            setattr(self, hook, partial(self._time, hook, getattr(self, hook)))

    def _time(self, hook: str, work: Callable[..., None], *arguments: Any, **named: Any) -> None:
        start = time.process_time()
        work(*arguments, **named)
        self.inside[hook] += time.process_time() - start


def run(make: Make, args: argparse.Namespace, inspected: bool, every: int) -> dict[str, float]:
    """Train once and return the seconds in each of the inspector's hooks, nothing without it."""
    torch.manual_seed(0)
    module, data = make()
    others = [c for c in default_callbacks() if not isinstance(c, PromptInspector)]
    inspector = Timed() if inspected else None
    callbacks = [*([inspector] if inspector else []), *others]
    condense = pcvpt.PromptCondensation(
        prompt_epochs=args.prompt_epochs, finetune_epochs=args.finetune_epochs
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if args.device == "cuda" else "cpu",
            devices=1,
            callbacks=[condense, *callbacks],
            logger=TensorBoardLogger(folder, name="run"),
            default_root_dir=folder,
            log_every_n_steps=10,
            check_val_every_n_epoch=every,
        )
        trainer.fit(module, datamodule=data)
    return inspector.inside if inspector else {}


def _demo(args: argparse.Namespace) -> tuple[pcvpt.PromptTuner, ImageDataModule]:
    recipes = [
        pcvpt.PhaseRecipe(torch.optim.AdamW, base_lr=rate, weight_decay=0.001)
        for rate in (1.0, 0.3)
    ]
    module = pcvpt.PromptTuner(10, recipes[0], recipes[1], "vit_demo_patch8_32", 20)
    return module, DemoDataModule(batch_size=25)


TASKS = {"demo": (_demo, 5), "vit": (tuner_and_noise, 1)}


def compare(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the seconds of both sides of one task in each round."""
    build, every = TASKS[name]
    processor: dict[str, list[float]] = {"with": [], "without": []}
    inside: list[dict[str, float]] = []

    def side(label: str) -> None:
        start = time.process_time()
        found = run(partial(build, args), args, label == "with", every)
        processor[label].append(time.process_time() - start)
        if label == "with":
            inside.append(found)

    work = {label: partial(side, label) for label in processor}
    # What is loaded at first use is loaded before the clock starts, in a run of one step or two.
    warm = argparse.Namespace(**{**vars(args), "prompt_epochs": 1, "finetune_epochs": 1})
    warm.images = args.batch
    run(partial(tuner_and_noise, warm), warm, True, 1)
    taken = alternate(work, args.repeats, device, warm=0)
    return {
        "task": name,
        "sides": {
            label: {"seconds": taken[label], "processor_seconds": processor[label]}
            for label in taken
        },
        "inside": inside,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--prompt_epochs", type=int, default=20)
    parser.add_argument("--finetune_epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="Rounds.")
    parser.add_argument("--backbone", default="vit_small_patch16_224", help="Of the task vit.")
    parser.add_argument(
        "--image_size",
        type=int,
        help="Image size of the task vit, in pixels. Default: that of the backbone.",
    )
    parser.add_argument(
        "--prompts", type=int, default=10, help="Prompts per block of the task vit."
    )
    parser.add_argument("--images", type=int, default=200, help="Images per epoch of the task vit.")
    parser.add_argument("--batch", type=int, default=20, help="Of the task vit.")
    args = parser.parse_args(arguments)
    device = prepare(args)
    rows = [compare(name, args, device) for name in args.tasks]
    write("inspector", device, args, rows=rows)
    table = Table()
    columns = ("task", "without, s", "with / without", "processor: with / without", "inside, s")
    for column in columns:
        table.add_column(column, justify="left" if column == "task" else "right")
    for row in rows:
        sides, of_processor = (
            row["sides"],
            {label: {"seconds": side["processor_seconds"]} for label, side in row["sides"].items()},
        )
        table.add_row(
            row["task"],
            told(spread(sides["without"]["seconds"])),
            told(ratio(sides, "with", "without"), 3),
            told(ratio(of_processor, "with", "without"), 3),
            told(spread([sum(hooks.values()) for hooks in row["inside"]])),
        )
    title = f"{args.prompt_epochs} + {args.finetune_epochs} epochs, "
    show(title + on(hardware(device)), table)


if __name__ == "__main__":
    main()
