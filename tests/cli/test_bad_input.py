"""Values that a run can't have are refused before an image is read or a step is taken."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image

from pcvpt.callbacks import PhaseCheckpoint, PromptCondensation
from pcvpt.data import DemoDataModule, ImageDataModule, image_files
from pcvpt.errors import UsageError
from pcvpt.runs import disk_space
from pcvpt.runs.disk_space import check_output
from pcvpt.training.module import PromptTuner
from pcvpt.training.recipe import PhaseRecipe

QUICK = ("--trainer.accelerator=cpu", "--trainer.num_sanity_val_steps=0")
STOP = "lightning.pytorch.callbacks.EarlyStopping"
Says = Callable[..., str]


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, in a process that reads no image and takes no training step."""

    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("the bad input came so far")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_files, "check_images", reached)
    monkeypatch.setattr(PromptTuner, "training_step", reached)
    return tmp_path


@pytest.fixture
def says(work: Path, refusal: Says) -> Says:
    """What the command says of own.yaml with this text, after the demo, and these options."""

    def said(text: str, *options: str, subcommand: str = "fit") -> str:
        (work / "own.yaml").write_text(text, encoding="utf-8")
        return refusal(subcommand, "--config=demo.yaml", "--config=own.yaml", *QUICK, *options)

    return said


CALLBACK = "trainer: {{callbacks: [{{class_path: {}, init_args: {}}}]}}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("condense: {keep: 0}", "keep=0"),
        ("condense: {keep: .nan}", "keep=nan"),
        ("condense: {keep: 1.01}", "keep=1.01"),
        ("condense: {keep: null, max_drop: .nan}", "max_drop=nan"),
        ("condense: {finetune_epochs: 0}", "condense.finetune_epochs=0"),
        ("condense: {keep: []}", "condense.keep=[]"),
        ("condense: {keep: [0.3, 0.3]}", "twice"),
        ("condense: {finetune_keep: [0.1]}", "condense.finetune_keep=[0.1]"),
        ("condense: {count: 5}", "count=5"),
        ("condense: {score: gats}", "score"),
        ("condense: {keep: null, count: 121}", "there are only 120"),
        ("model: {num_prompts: 0}", "num_prompts=0"),
        ("model: {backbone: vit_demo_patch8_23}", "vit_demo_patch8_32"),
        ("data: {batch_size: 0}", "batch_size is 0"),
        ("data: {batch_size: 2000}", "batch_size 2000"),
        ("data: null", "data is not given"),
        ("trainer: {max_epochs: 3}", "trainer.max_epochs=3"),
        ("trainer: {max_steps: 3}", "trainer.max_steps=3"),
        ("seed_everything: -4", "seed_everything=-4"),
        ("model: {image_size: 33}", "image size 33"),
        ("model: {prompt_dropout: 1.0}", "prompt_dropout=1.0"),
        ("model: {prompt: {base_lr: -1}}", "base_lr=-1"),
        ("model: {prompt: {warmup_epochs: .inf}}", "warmup_epochs=inf"),
        ("model: {finetune: {optimizer: {class_path: torch.optim.LBFGS}}}", "optimizer: LBFGS"),
        ("model: {prompt: {optimizer: {class_path: torch.optim.SparseAdam}}}", "SparseAdam"),
        (
            "model: {finetune: {optimizer: {class_path: SGD, init_args: {momentum: -1}}}}",
            "optimizer: Invalid momentum value: -1.0",
        ),
        ("data: {num_workers: 100000}", "num_workers is 100000"),
        (
            "data: {class_path: ImageFolderDataModule, init_args: {root: ~no-such-user/x}}",
            "begins with ~",
        ),
        ("trainer: {devices: 0}", "devices=0"),
        ("trainer: {devices: many}", "`devices` selected with"),
        ("trainer: {strategy: foo}", "strategy='foo'"),
        ("trainer: {precision: 17}", "trainer.precision is 17, but must be 64, 32, 16"),
        ("trainer: {num_nodes: 0}", "trainer.num_nodes=0"),
        ("trainer: {accumulate_grad_batches: 0}", "trainer.accumulate_grad_batches=0"),
        ("trainer: {check_val_every_n_epoch: 0}", "trainer.check_val_every_n_epoch=0"),
        ("trainer: {gradient_clip_algorithm: foo}", "`gradient_clip_algorithm` foo is invalid"),
        ("trainer: {max_time: soon}", "soon"),
    ],
)
def test_a_value_out_of_range_is_refused(text: str, said: str, says: Says) -> None:
    assert said in says(text)


def test_no_batch_to_train_on_is_refused(says: Says) -> None:
    assert "limit_train_batches=0" in says("{}", "--trainer.limit_train_batches=0")


@pytest.mark.parametrize("per_class", [0, 4])
def test_images_of_less_than_two_classes_are_refused(
    per_class: int, work: Path, says: Says
) -> None:
    folder = work / "images" / "train"
    for number in range(per_class):
        (folder / "cat").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "cat" / f"{number}.png")
    folder.mkdir(parents=True, exist_ok=True)
    said = says("data: {class_path: ImageFolderDataModule, init_args: {root: images}}")
    assert ("num_classes=1" if per_class else "no class folders") in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            CALLBACK.format(STOP, "{monitor: test/accuracy}"),
            "EarlyStopping.monitor",
        ),
        (
            CALLBACK.format(
                "lightning.pytorch.callbacks.ModelCheckpoint", "{monitor: test/accuracy}"
            ),
            "ModelCheckpoint.monitor",
        ),
        (
            CALLBACK.format("pcvpt.callbacks.PhaseCheckpoint", "{monitor: test/accuracy}"),
            "PhaseCheckpoint.monitor",
        ),
        ("condense: {monitor: test/accuracy_per_class}", "condense.monitor"),
    ],
    ids=["stop", "lightning's checkpoint", "checkpoint", "condense"],
)
def test_the_test_split_may_choose_nothing(text: str, said: str, says: Says) -> None:
    answer = says(text)
    assert answer.startswith(said)
    assert "the test split" in answer


def _tuner() -> PromptTuner:
    recipe = PhaseRecipe(torch.optim.SGD, 0.1)
    return PromptTuner(10, recipe, recipe, backbone="vit_demo_patch8_32", num_prompts=2)


def test_the_test_split_may_choose_nothing_without_the_command(work: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        callbacks=[EarlyStopping("test_loss")],
    )
    with pytest.raises(UsageError, match=r"EarlyStopping\.monitor='test_loss'"):
        trainer.fit(_tuner(), datamodule=DemoDataModule())


@pytest.mark.parametrize("make", [PhaseCheckpoint, PromptCondensation])
def test_a_loss_is_not_taken_for_what_is_better_the_higher(make: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match="val/loss"):
        make(monitor="val/loss")
    make(monitor="val/latest")  # not of the test split


def test_a_metric_that_is_not_logged_chooses_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()  # this one is seen in validation only
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        limit_val_batches=1,
        callbacks=[PhaseCheckpoint("val/acuracy")],
        enable_progress_bar=False,
    )
    with pytest.raises(UsageError, match=r"'val/acuracy' is not logged; .*val/accuracy"):
        trainer.fit(_tuner(), datamodule=DemoDataModule())


def _corrupt(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(100))


def _truncated(path: Path) -> None:
    torch.save({"pcvpt": {}, "state_dict": {"a": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


def _foreign(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)


def _with_code(path: Path) -> None:
    torch.save({"pcvpt": {}, "code": shutil.rmtree}, path)


@pytest.mark.parametrize("subcommand", ["fit", "test"])
@pytest.mark.parametrize("spoil", [_corrupt, _truncated, _foreign, _with_code, Path.mkdir])
def test_a_checkpoint_that_is_none_is_refused(
    spoil: Callable[[Path], None], subcommand: str, work: Path, says: Says
) -> None:
    spoil(work / "spoilt.ckpt")
    said = says("{}", "--ckpt_path=spoilt.ckpt", subcommand=subcommand)
    assert said.startswith("spoilt.ckpt: ")


@pytest.mark.parametrize("name", ["~no-such-user/a.yaml", "x" * 5000, "a\0b", "nothing.yaml"])
def test_a_config_that_is_no_file_is_refused(name: str, refusal: Says) -> None:
    assert refusal("fit", "--config", name).startswith(f"no configuration {name[:100]}")


@pytest.mark.parametrize("arguments", [["fit", "--condense.keep=0.1"], ["fitt"], ["test", "."]])
def test_a_command_that_lacks_what_it_needs_is_refused(arguments: list[str], refusal: Says) -> None:
    found = {"fit": "demo.yaml", "fitt": "'fitt'", "test": "config.yaml"}[arguments[0]]
    assert found in refusal(*arguments)


def test_a_file_in_the_place_of_the_output_folder_is_refused(work: Path, says: Says) -> None:
    (work / "runs").write_text("here already")
    said = says("{}")
    assert said.startswith("runs/demo_own: can't be written to (Not a directory)")
    assert "--output_dir" in said


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_takes_nothing_is_refused_before_the_data(
    number: int, says: Says, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk_space.os, "fsync", fail)
    monkeypatch.setattr(ImageDataModule, "splits", property(lambda self: fail(0)))
    assert f"runs/demo_own: can't be written to ({os.strerror(number)})" in says("{}")


def test_a_disk_that_is_nearly_full_is_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(work)._replace(free=disk_space.LEAST_FREE - 1)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"new: 64 MB are free"):
        check_output(work / "new")


def test_an_output_folder_that_will_do_is_left_as_it_was(work: Path) -> None:
    (work / "runs").mkdir()
    (work / "runs" / "kept").write_text("kept")
    check_output(work / "runs")
    check_output(work / "runs" / "a" / "new")
    assert [path.name for path in (work / "runs").iterdir()] == ["kept"]


def test_a_name_too_long_for_the_disk_is_refused(work: Path) -> None:
    with pytest.raises(UsageError, match=r"can't be written to \(File name too long\)"):
        check_output(work / ("x" * 300))
