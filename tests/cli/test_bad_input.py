"""Values that a run can't have are refused before an image is read or a step is taken."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from factories import TinyData, make_trainer, make_tuner
from lightning.pytorch.callbacks import ModelCheckpoint

from pcvpt.callbacks import PhaseCheckpoint, PromptCondensation
from pcvpt.data import ImageDataModule, image_files
from pcvpt.errors import UsageError
from pcvpt.runs import atomic
from pcvpt.training.module import PromptTuner

from .conftest import Command, Refusal

QUICK = ("--trainer.accelerator=cpu", "--trainer.num_sanity_val_steps=0")
CALLBACK = "trainer: {callbacks: [{class_path: %s, init_args: {monitor: test/accuracy}}]}"
FOLDER = "data: {class_path: ImageFolderDataModule, init_args: {root: %s}}"
OPTIMIZER = "model: {finetune: {optimizer: {class_path: %s}}}"
VALUES = [  # text of own.yaml, and what the error names
    ("condense: {keep: .nan}", "keep=nan"),
    ("condense: {keep: []}", "condense.keep=[]"),
    ("condense: {keep: [0.3, 0.3]}", "twice"),
    ("condense: {finetune_keep: [0.2]}", "condense.finetune_keep=[0.2]"),
    ("condense: {monitor: test/accuracy_per_class}", "condense.monitor"),
    ("model: {num_prompts: 0}", "num_prompts=0"),
    ("model: {backbone: vit_demo_patch8_23}", "vit_demo_patch8_32"),
    ("model: {prompt_dropout: 1.0}", "prompt_dropout=1.0"),
    ("model: {prompt: {base_lr: -1}}", "base_lr=-1"),
    (OPTIMIZER % "torch.optim.LBFGS", "LBFGS"),
    (OPTIMIZER % "SGD, init_args: {momentum: -1}", "momentum value: -1"),
    (OPTIMIZER % "AdamW, init_args: {lr: 0.001}", "model.finetune.optimizer.init_args.lr=0.001"),
    (OPTIMIZER % "AdamW, init_args: {weight_decay: 0.2}", "init_args.weight_decay=0.2"),
    ("model: {timm_kwargs: {num_classes: 3}}", "num_classes"),
    ("model: {timm_kwargs: {pretrained: false}}", "pretrained"),
    ("model: {image_size: 32, timm_kwargs: {img_size: 64}}", "img_size, which image_size gives"),
    ("model: {timm_kwargs: {drop_path_rate: 0.1}}", "drop_path_rate=0.1"),
    ("data: {batch_size: 0}", "batch_size is 0"),
    ("data: {batch_size: 2000}", "batch_size 2000"),
    ("data: {num_workers: 100000}", "num_workers is 100000"),
    ("data: null", "data is not given"),
    (FOLDER % "~no-such-user/x", "~"),
    (FOLDER % "nothing", "nothing"),
    ("seed_everything: -4", "seed_everything=-4"),
    ("trainer: {max_epochs: 3}", "trainer.max_epochs=3"),
    ("trainer: {max_steps: 3}", "trainer.max_steps=3"),
    ("trainer: {min_epochs: 3}", "trainer.min_epochs=3"),
    ("trainer: {devices: 0}", "devices=0"),
    ("trainer: {devices: many}", "devices"),
    ("trainer: {strategy: foo}", "strategy='foo'"),
    ("trainer: {num_nodes: 0}", "trainer.num_nodes=0"),
    ("trainer: {accumulate_grad_batches: 0}", "trainer.accumulate_grad_batches=0"),
    ("trainer: {check_val_every_n_epoch: 0}", "trainer.check_val_every_n_epoch=0"),
    ("trainer: {limit_train_batches: 0}", "trainer.limit_train_batches=0"),
    ("trainer: {gradient_clip_algorithm: foo}", "gradient_clip_algorithm"),
    ("trainer: {max_time: soon}", "soon"),
    (CALLBACK % "EarlyStopping", "EarlyStopping is not supported"),
    (CALLBACK % "lightning.pytorch.callbacks.ModelCheckpoint", "ModelCheckpoint.monitor"),
    (CALLBACK % "pcvpt.callbacks.PhaseCheckpoint", "PhaseCheckpoint.monitor"),
]


def _reached(*_: Any, **__: Any) -> None:
    raise AssertionError("the bad input came too far")


@pytest.fixture(autouse=True)
def _nothing_is_computed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, in a process that reads no image and takes no training step."""
    monkeypatch.setattr(image_files, "check_images", _reached)
    monkeypatch.setattr(PromptTuner, "training_step", _reached)


@pytest.fixture
def says(work: Path, refusal: Refusal) -> Refusal:
    """What the command says of own.yaml with this text, after the demo, and these options."""

    def said(text: str, *options: str, subcommand: str = "fit") -> str:
        (work / "own.yaml").write_text(text, encoding="utf-8")
        return refusal(subcommand, "--config=demo.yaml", "--config=own.yaml", *QUICK, *options)

    return said


@pytest.mark.parametrize(("text", "named"), VALUES)
def test_a_value_out_of_range_is_refused(text: str, named: str, work: Path, says: Refusal) -> None:
    assert named in says(text)
    assert list(work.rglob("config.yaml")) == []  # no folder of a run that never began


@pytest.mark.parametrize(
    ("subcommand", "option"), [("test", "--resume"), ("fit", "--retest"), ("validate", "--retest")]
)
def test_an_option_of_another_command_is_refused(
    subcommand: str, option: str, work: Path, says: Refusal
) -> None:
    _save({"pcvpt": {}, "state_dict": {}, "loops": {}})(work / "a.ckpt")
    assert option in says("{}", option, "--ckpt_path=a.ckpt", subcommand=subcommand)


def test_missing_images_are_told_before_the_weights_are_looked_for(
    work: Path, command: Command
) -> None:
    weights = ("--model.pretrained", "gone.pth")
    ended = command("fit", "--config=cars.yaml", "--data.root", work, *weights, *QUICK)
    assert ended.status == 2
    assert ended.error.startswith(f"{work}: no cars")


@pytest.mark.parametrize(
    ("callback", "named"),
    [
        (ModelCheckpoint(monitor="test_loss"), r"ModelCheckpoint\.monitor='test_loss'"),
        (PhaseCheckpoint("val/acuracy"), r"'val/acuracy' is not logged; .*val/accuracy"),
    ],
)
def test_a_metric_that_must_not_choose_is_refused_without_the_command(
    callback: pl.Callback, named: str, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    monkeypatch.undo()  # what is logged is seen in validation only
    trainer = make_trainer(work, [callback], limit_val_batches=1)
    with pytest.raises(UsageError, match=named):
        trainer.fit(make_tuner(), datamodule=TinyData())


@pytest.mark.parametrize("make", [PhaseCheckpoint, PromptCondensation])
def test_a_loss_is_not_taken_for_what_is_better_the_higher(make: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match="val/loss"):
        make(monitor="val/loss")
    make(monitor="val/latest")  # not of the test split


def _save(content: dict[str, Any], size: int | None = None) -> Callable[[Path], object]:
    def save(path: Path) -> None:
        torch.save(content, path)
        path.write_bytes(path.read_bytes()[:size])

    return save


@pytest.mark.parametrize("subcommand", ["fit", "test"])
@pytest.mark.parametrize(
    "spoil",
    [
        Path.mkdir,
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        _save({"pcvpt": {}, "state_dict": {"a": torch.zeros(1000)}}, 2000),  # cut off
        _save({"state_dict": {"weight": torch.zeros(3)}}),  # of another program
        _save({"pcvpt": {}, "code": shutil.rmtree}),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(
    spoil: Callable[[Path], object], subcommand: str, work: Path, says: Refusal
) -> None:
    spoil(work / "spoilt.ckpt")
    said = says("{}", "--ckpt_path=spoilt.ckpt", subcommand=subcommand)
    assert said.startswith("spoilt.ckpt: ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("fit --condense.keep=0.1", "demo.yaml"),
        ("fit --config nothing.yaml", "nothing.yaml"),
        ("fitt", "'fitt'"),
        ("test .", "config.yaml"),
    ],
)
def test_a_command_that_lacks_what_it_needs_is_refused(
    arguments: str, named: str, refusal: Refusal
) -> None:
    assert named in refusal(*arguments.split())


def test_a_file_in_the_place_of_the_output_folder_is_refused(work: Path, says: Refusal) -> None:
    (work / "runs").write_text("here already")
    said = says("{}")
    assert said.startswith("runs/demo_own: ")
    assert "--output_dir" in said


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_disk_that_takes_nothing_is_refused_before_the_data(
    number: int, says: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    monkeypatch.setattr(ImageDataModule, "splits", property(_reached))
    assert f"runs/demo_own: can't be written to ({os.strerror(number)})" in says("{}")
