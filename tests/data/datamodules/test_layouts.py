"""Every layout is found, verified, trained on, condensed and tested; most under slow."""

import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch

from miniature import fgvc, vtab
from miniature.prepare import prepare
from pcvpt import PhaseRecipe, PromptCondensation, PromptTuner
from pcvpt.data import TASKS, BenchmarkDataModule, Task, layouts
from pcvpt.data.tools.verify import verify

Write = Callable[[Path], object]


def _as_tfds(name: str, file_format: str) -> Write:
    def write(folder: Path) -> None:
        source = folder.parent / "source"
        vtab.WRITERS[name](source)
        prepare(TASKS[name].tfds.partition(":")[0], source, folder, file_format)

    return write


def _json(name: str) -> Write:
    def write(folder: Path) -> None:
        folder.mkdir()
        fgvc.write_json(folder, name)

    return write


FGVC: dict[str, tuple[str, str, Write]] = {
    **{f"json {n}": (n, "json", _json(n)) for n, task in TASKS.items() if task.suite == "fgvc"},
    "cub": ("cub", "original", fgvc.write_cub),
    "nabirds": ("nabirds", "original", fgvc.write_nabirds),
    "flowers": ("flowers", "original", fgvc.write_flowers),
    "dogs": ("dogs", "original", fgvc.write_dogs),
    "cars devkit": ("cars", "original", fgvc.write_cars_devkit),
    "cars annos": ("cars", "original", fgvc.write_cars_annos),
    "cars csv": ("cars", "original", fgvc.write_cars_csv),
}
VTAB: dict[str, tuple[str, str, Write]] = {
    **{f"authors' {name}": (name, "torchvision", vtab.WRITERS[name]) for name in vtab.WRITERS},
    "tfrecord": ("svhn", "tfds", _as_tfds("svhn", "tfrecord")),
    "array_record": ("pets", "tfds", _as_tfds("pets", "array_record")),
}


def _fit(task: Task, layout: str, root: Path) -> None:
    named = types.new_class("Small", (BenchmarkDataModule,), {"row": task})
    data = named(str(root), layout=layout, batch_size=2, num_workers=0)
    recipe = PhaseRecipe(partial(torch.optim.SGD), 0.1, 0.0, 0)
    tuner = PromptTuner(task.num_classes, recipe, recipe, "vit_demo_patch8_32", 2)
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    trainer = lightning.Trainer(
        accelerator="cpu", callbacks=[condense], limit_train_batches=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(tuner, datamodule=data)
    assert sum(condense.report["kept"]) == 4
    (tested,) = trainer.test(tuner, datamodule=data, verbose=False)
    assert 0 <= tested["test/accuracy"] <= 1


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind == "cars csv" else pytest.mark.slow)
        for kind in (*FGVC, *VTAB)
    ],
)
def test_a_layout_is_verified_and_trained_on(kind: str, tmp_path: Path) -> None:
    name, layout, write = {**FGVC, **VTAB}[kind]
    task = replace(TASKS[name], num_classes=3) if kind in FGVC else vtab.small(TASKS[name])
    write(tmp_path / name)
    found = layouts.find(task, tmp_path, layout)
    reading = found.read(task)
    sizes = {"train": len(reading.train), "val": len(reading.val or ()), "test": len(reading.test)}
    report = verify(replace(task, **sizes), reading)  # type: ignore[arg-type]
    assert not report.problems
    _fit(task, layout, tmp_path)
