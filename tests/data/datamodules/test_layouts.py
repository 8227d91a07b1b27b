"""Every layout is found, verified, trained on, condensed and tested; two of them quickly."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from miniature import fgvc, lists, vtab
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
    named = type("Small", (BenchmarkDataModule,), {"row": task})
    data = named(str(root), layout=layout, batch_size=2, num_workers=0)
    recipe = PhaseRecipe(partial(torch.optim.SGD), 0.1, 0.0, 0)
    tuner = PromptTuner(task.num_classes, recipe, recipe, "vit_demo_patch8_32", 2)
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = lightning.Trainer(
        accelerator="cpu", callbacks=[condense], limit_train_batches=2, **quiet
    )
    trainer.fit(tuner, datamodule=data)
    assert sum(condense.report["kept"]) == 4
    (tested,) = trainer.test(tuner, datamodule=data, verbose=False)
    assert 0 <= tested["test/accuracy"] <= 1


def _mostly_slow(names: Iterable[str], quick: str) -> list[Any]:
    return [name if name == quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("kind", _mostly_slow([*FGVC, *VTAB], quick="cars csv"))
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


@pytest.mark.parametrize("name", _mostly_slow(TASKS, quick="dtd"))
def test_the_list_layout_is_verified(name: str, tmp_path: Path) -> None:
    task = lists.row(name)
    folder = lists.write(task, tmp_path / name)
    assert not verify(task, layouts.find(task, tmp_path).read(task), folder).problems
