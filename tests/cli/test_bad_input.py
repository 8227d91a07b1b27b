"""Bad input, through the whole command: one line, status 2, before images are read."""

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
from pcvpt.cli.main import main
from pcvpt.data import DemoDataModule, ImageDataModule, image_files
from pcvpt.errors import UsageError
from pcvpt.runs import disk_space
from pcvpt.runs.disk_space import check_output
from pcvpt.training.module import PromptTuner
from pcvpt.training.recipe import PhaseRecipe

QUICK = (
    *("--trainer.accelerator=cpu", "--trainer.limit_train_batches=2"),
    *("--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0"),
    *("--condense.prompt_epochs=1", "--condense.finetune_epochs=1"),
)
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
def says(work: Path, capsys: pytest.CaptureFixture[str]) -> Says:
    """What the command says of own.yaml with this text, after the demo, and these options."""

    def said(text: str, *options: str, command: str = "fit") -> str:
        (work / "own.yaml").write_text(text, encoding="utf-8")
        arguments = [command, "--config", "demo.yaml", "--config", "own.yaml", *QUICK, *options]
        return _said(arguments, capsys)

    return said


def _said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("pcvpt: error: ")]
    assert lines[-1:] == errors, lines
    return errors[0].removeprefix("pcvpt: error: ")


_BATCH_SIZE = "did you mean data.init_args.batch_size?"
_CALLBACK = "trainer: {{callbacks: [{{class_path: {}, init_args: {}}}]}}"
_STOP = "lightning.pytorch.callbacks.EarlyStopping"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model: {num_prompt: 3}",
            "own.yaml: unknown key model.num_prompt; did you mean model.num_prompts?",
        ),
        ("modell: {num_prompts: 3}", "own.yaml: unknown key modell; did you mean model?"),
        ("keep: 0.1", "own.yaml: unknown key keep; did you mean condense.keep?"),
        ("batch_size: 3", f"own.yaml: unknown key batch_size; {_BATCH_SIZE}"),
        (
            "data: {init_args: {batchsize: 3}}",
            f"own.yaml: unknown key data.init_args.batchsize; {_BATCH_SIZE}",
        ),
        (
            "data: {class_path: DemoDataModule, batch_size: 3}",
            f"own.yaml: unknown key data.batch_size; {_BATCH_SIZE}",
        ),
        (
            _CALLBACK.format(_STOP, "{monitr: x}"),
            "own.yaml: unknown key trainer.callbacks[0].init_args.monitr; did you mean "
            "trainer.callbacks[0].init_args.monitor?",
        ),
        (
            "model: {prompt: {optimizer: {init_args: {momentun: 0.9}}}}",
            "own.yaml: unknown key model.prompt.optimizer.init_args.momentun; there are",
        ),
        (
            "data: {class_path: pcvpt.data.StanfordCar}",
            "own.yaml: data: 'pcvpt.data.StanfordCar' is no class that fits; did you mean "
            "pcvpt.data.StanfordCars?",
        ),
        ("data: torch.nn.Linear", "own.yaml: data: 'torch.nn.Linear' is no class that fits"),
        ("data: {init_args: 3}", "own.yaml: data.init_args is 3, but must be a mapping"),
        (
            "model: {num_prompts: many}",
            "own.yaml: model.num_prompts is 'many', but must be a whole number",
        ),
        (  # the list of numbers, which might hold tensors too, is right
            "model: {prompt: {optimizer: {class_path: torch.optim.AdamW, init_args: "
            "{betas: [0.9, 0.99]}}}, num_prompt: 3}",
            "own.yaml: unknown key model.num_prompt; did you mean model.num_prompts?",
        ),
        (
            "condense: {keep: [0.3, x]}",
            "own.yaml: condense.keep is [0.3, 'x'], but must be a number, a list of numbers or "
            "null",
        ),
        (
            "model: {mode: deepp}",
            "own.yaml: model.mode is 'deepp', but must be deep, shallow or linear; did you mean "
            "deep?",
        ),
        ("trainer: {callbacks: [{init_args: {}}]}", "own.yaml: trainer.callbacks is [{'init_args'"),
        (
            "data: pcvpt.data.ImageFolderDataModule",
            "own.yaml: pcvpt.data.ImageFolderDataModule needs root",
        ),
        ("trainer:", "own.yaml: trainer is empty, but must be a mapping"),
        ("condense: [1]", "own.yaml: condense is [1], but must be a mapping"),
        ("trainer: none.yaml", "own.yaml: trainer is 'none.yaml', but must be a mapping"),
        ("output_dir: 3", "own.yaml: output_dir is 3, but must be text"),
        ("on: 3", "own.yaml: the key true is not text; put it in quotes"),
        ("- 1\n- 2", "own.yaml: a configuration is a mapping"),
        ("model: {a: 3", "own.yaml: line 1, column 13: not readable as YAML"),
        ("model:\n\tmode: deep", "own.yaml: line 2, column 1: not readable as YAML: a tab"),
        (
            "model:\n  mode: deep\ncondense: {keep: 0.1}\nmodel:\n  num_prompts: 3",
            "own.yaml: line 4: model is there twice (first in line 1)",
        ),
        ("model.num_prompts: 3\nmodel: {mode: deep}", "own.yaml: line 1: model.num_prompts stands"),
        ("model: &a {timm_kwargs: *a}", "own.yaml: line 1: an alias inside of what it stands for"),
        (f"model: {'[' * 99}{']' * 99}", "own.yaml: line 1: nested more than 30 deep"),
    ],
)
def test_a_wrong_file_is_named_with_the_key_and_what_was_meant(
    text: str, said: str, says: Says
) -> None:
    assert says(text).startswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--condense.kep=0.3"], "unknown option --condense.kep; did you mean --condense.keep?"),
        (["--keep", "0.3"], "unknown option --keep; did you mean --condense.keep?"),
        (
            ["--data.batchsize=3"],
            "unknown option --data.batchsize; did you mean --data.batch_size?",
        ),
        (["--model.num_prompts=many"], "--model.num_prompts is 'many', but must be a whole number"),
        (["--trainer.callbacks+=EarlyStoping"], "--trainer.callbacks: 'EarlyStoping' is no class"),
        (["--condense.keep"], "--condense.keep needs a value"),
        (["--model", "3"], "--model is '3', but must be a mapping"),
        (["0.3"], "unrecognized arguments: 0.3; an option begins with --"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_said_to_be_of_the_command_line(
    options: list[str], said: str, says: Says
) -> None:
    assert says("{}", *options).startswith(f"the command line: {said}")


def test_the_command_cost_says_the_same(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "own.yaml").write_text("model: {num_prompt: 3}")
    said = _said(["cost", "--config=demo.yaml", "--config=own.yaml"], capsys)
    assert said == "own.yaml: unknown key model.num_prompt; did you mean model.num_prompts?"


def test_of_several_files_the_wrong_one_is_named(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "base.yaml").write_text("condense: {kep: 0.3}")
    for name in "first", "second":
        (work / "mine" / f"{name}.yaml").write_text("model: {num_prompts: 5}")
    configs = [f"--config=mine/{name}.yaml" for name in ("first", "second")]
    said = _said(["fit", "--config=demo.yaml", *configs], capsys)
    assert said.startswith(f"{work / 'mine' / 'base.yaml'}: unknown key condense.kep;")


def test_an_empty_file_changes_nothing_and_hides_no_mistake(says: Says) -> None:
    assert "condense.keep" not in says("# nothing yet\n", "--model.num_prompts=0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("condense: {keep: 0}", "keep=0"),
        ("condense: {keep: .nan}", "keep=nan"),
        ("condense: {keep: 1.01}", "keep=1.01"),
        ("condense: {keep: null, max_drop: .nan}", "max_drop=nan"),
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


def test_more_prompts_than_there_are_cannot_be_kept(says: Says) -> None:
    assert "there are only 120" in says("condense: {keep: null, count: 121}")


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
        (_CALLBACK.format(_STOP, "{monitor: test/accuracy}"), "EarlyStopping.monitor"),
        (
            _CALLBACK.format(
                "lightning.pytorch.callbacks.ModelCheckpoint", "{monitor: test/accuracy}"
            ),
            "ModelCheckpoint.monitor",
        ),
        (
            _CALLBACK.format("pcvpt.callbacks.PhaseCheckpoint", "{monitor: test/accuracy}"),
            "PhaseCheckpoint.monitor",
        ),
        ("condense: {monitor: test/accuracy_per_class}", "condense.monitor"),
    ],
    ids=["stop", "lightning's checkpoint", "checkpoint", "condense"],
)
def test_the_test_split_may_choose_nothing(text: str, said: str, says: Says) -> None:
    answer = says(text)
    assert answer.startswith(said)
    assert "the test split must not choose anything" in answer


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


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("spoil", [_corrupt, _truncated, _foreign, _with_code, Path.mkdir])
def test_a_checkpoint_that_is_none_is_refused(
    spoil: Callable[[Path], None], command: str, work: Path, says: Says
) -> None:
    spoil(work / "spoilt.ckpt")
    said = says("{}", "--ckpt_path=spoilt.ckpt", command=command)
    assert said.startswith("spoilt.ckpt: ")


def test_a_folder_without_a_run_is_not_tested(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no run here" in _said(["test", str(work)], capsys)


def test_a_config_that_no_system_call_takes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for name in "~no-such-user/a.yaml", "x" * 5000, "a\0b":
        assert _said(["fit", "--config", name], capsys).startswith("no configuration ")


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
