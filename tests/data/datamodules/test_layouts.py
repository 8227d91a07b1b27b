"""Every layout is found, verified, trained on, condensed and tested; most under slow."""

import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from factories import fit, make_tuner

from miniature import fgvc, lists, vtab
from miniature.prepare import prepare
from pcvpt.data import TASKS, BenchmarkDataModule, layouts
from pcvpt.data.tools.verify import verify

Write = Callable[[Path], object]


def _as_tfds(name: str, file_format: str) -> Write:
    def write(folder: Path) -> None:
        source = folder.parent / "source"
        vtab.WRITERS[name](source)
        prepare(TASKS[name].tfds.partition(":")[0], source, folder, file_format)

    return write


FGVC: dict[str, tuple[str, str, Write]] = {
    **{
        f"json {name}": (name, "json", partial(fgvc.write_json, task=name))
        for name, task in TASKS.items()
        if task.suite == "fgvc"
    },
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


@pytest.mark.parametrize("name", TASKS)
def test_lists_of_every_task_are_verified(name: str, tmp_path: Path) -> None:
    task = lists.row(name)
    folder = lists.write(task, tmp_path / name)
    assert not verify(task, layouts.find(task, tmp_path).read(task), folder).problems


@pytest.mark.parametrize(
    "kind",
    [k if k == "cars csv" else pytest.param(k, marks=pytest.mark.slow) for k in (*FGVC, *VTAB)],
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
    named: Any = types.new_class("Small", (BenchmarkDataModule,), {"row": task})
    data = named(str(tmp_path), layout=layout, batch_size=2, num_workers=0)
    module = make_tuner(num_classes=task.num_classes, num_prompts=2)
    run = fit(tmp_path / "run", module=module, data=data, limit_train_batches=2)
    assert sum(run.report["kept"]) == 4
    (tested,) = run.trainer.test(module, datamodule=data, verbose=False)
    assert 0 <= tested["test/accuracy"] <= 1
