"""The board in all kinds of runs, none of which may notice that it is looked at."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginEventAccumulator,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PromptCondensation, PromptTuner
from pcvpt.callbacks import PhaseCheckpoint, PromptInspector
from pcvpt.callbacks.tensorboard.gradient_norms import GradientNorms
from pcvpt.data import Splits
from pcvpt.models import PromptBank

Fit = Callable[..., Any]
Tuner = Callable[..., PromptTuner]
SWIN = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}


def _tags(logger: TensorBoardLogger, kind: str = "images") -> set[str]:
    board = EventAccumulator(logger.log_dir)
    board.Reload()
    return set(board.Tags()[kind])


def _run(fit: Fit, folder: Path, **options: Any) -> TensorBoardLogger:
    logger = TensorBoardLogger(folder, name="board")
    options = {
        "condense": PromptCondensation(prompt_epochs=1, finetune_epochs=1),
        "callbacks": [PromptInspector()],
        **options,
    }
    fit(logger=logger, **options)
    return logger


OF_MODEL = {"prompts/attention", "prompts/similarity", "val/sample"}
OF_MASK = {"prompts/scores", "prompts/kept", "prompts/per_block"}


def test_a_linear_probe_shows_its_predictions(fit: Fit, tuner: Tuner, tmp_path: Path) -> None:
    condense = PromptCondensation(keep=None, prompt_epochs=2)
    module = tuner(mode="linear", num_prompts=0)
    logger = _run(fit, tmp_path, condense=condense, module=module)
    assert _tags(logger) == {"val/sample", "val/confusion"}
    assert not any(tag.startswith("prompt_") for tag in _tags(logger, "scalars"))


def test_plain_prompt_tuning_shows_no_scores(fit: Fit, tmp_path: Path) -> None:
    logger = _run(fit, tmp_path, condense=PromptCondensation(keep=None, prompt_epochs=1))
    assert _tags(logger) == OF_MODEL | {"val/confusion"}
    assert not _tags(logger, "histograms")


def test_one_layer_of_prompts_is_looked_at_from_each_block(
    fit: Fit, tuner: Tuner, tmp_path: Path
) -> None:
    logger = _run(fit, tmp_path, module=tuner(mode="shallow"))
    assert _tags(logger) == OF_MODEL | OF_MASK | {"val/confusion"}
    scalars = _tags(logger, "scalars")
    assert {f"attention/block_{b:02d}" for b in range(6)} <= scalars
    assert "prompt_norm/block_00" in scalars
    assert "prompt_norm/block_01" not in scalars


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_swin_is_shown(fit: Fit, tuner: Tuner, tmp_path: Path, mode: str) -> None:
    module = tuner(
        backbone="swin_tiny_patch4_window7_224",
        image_size=32,
        pretrained=False,
        timm_kwargs=SWIN,
        mode=mode,
    )
    logger = _run(fit, tmp_path, module=module)
    assert _tags(logger) == OF_MODEL | OF_MASK | {"val/confusion"}
    assert {f"attention/block_{b:02d}" for b in range(4)} <= _tags(logger, "scalars")


def test_with_nothing_to_fine_tune_the_masks_are_shown(fit: Fit, tmp_path: Path) -> None:
    condense = PromptCondensation([0.1, 0.5], prompt_epochs=1, finetune_keep=[])
    logger = _run(fit, tmp_path, condense=condense)
    masks = {"prompts/kept_0.1", "prompts/kept_0.5", "prompts/scores", "prompts/per_block"}
    assert _tags(logger) == OF_MODEL | masks | {"val/confusion"}


@pytest.mark.parametrize("missing", ["val", "test", "both"])
def test_images_are_of_the_splits_that_are_there(
    fit: Fit, task: Any, tmp_path: Path, missing: str
) -> None:
    class Partial(task):  # type: ignore[misc]
        def read_splits(self) -> Splits:
            whole = super().read_splits()
            gone = {"val", "test"} if missing == "both" else {missing}
            return replace(whole, **dict.fromkeys(gone, ()))

    logger = _run(fit, tmp_path, data=Partial())
    has_val = missing == "test"
    assert _tags(logger) == OF_MODEL | OF_MASK | ({"val/confusion"} if has_val else set())
    points = {"val": "test", "test": "val", "both": "train"}[missing]
    config = (Path(logger.log_dir) / "projector_config.pbtxt").read_text()
    assert f"features of {points}, condensed" in config


@pytest.mark.parametrize("has_val", [True, False])
def test_loaders_alone_are_enough(
    tuner: Tuner, trainer: Any, tmp_path: Path, has_val: bool
) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    used = trainer([condense, PromptInspector()], logger=logger)
    used.fit(tuner(), loader, loader if has_val else None)
    # Without val there is nothing to look at but the prompts.
    seen = {*OF_MODEL, "val/confusion"} if has_val else {"prompts/similarity"}
    assert _tags(logger) == OF_MASK | seen


def test_an_image_that_cannot_be_read_ends_no_run(fit: Fit, task: Any, tmp_path: Path) -> None:
    class Broken(task):  # type: ignore[misc]
        def read_splits(self) -> Splits:
            whole = super().read_splits()
            file = tmp_path / "broken.png"
            file.write_bytes(b"none")
            item = type(whole.test[0])(file, 0)
            return Splits(whole.train, whole.val, (item,), whole.class_names)

    with pytest.warns(UserWarning, match=r"No images on the board: .*broken\.png"):
        logger = _run(fit, tmp_path, data=Broken(check_images=False))
    assert "val/sample" in _tags(logger)
    assert not (Path(logger.log_dir) / "projector_config.pbtxt").exists()


def test_a_run_that_goes_on_in_its_folder_shows_nothing_twice(fit: Fit, tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None, **options: Any) -> dict[str, list[int]]:
        logger = TensorBoardLogger(tmp_path, name="board", version=0, **options)
        condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
        callbacks = [PromptInspector(), PhaseCheckpoint()]
        fit(condense, callbacks=callbacks, logger=logger, ckpt_path=ckpt_path)
        board = PluginEventAccumulator(logger.log_dir)  # as the page itself reads it
        board.Reload()
        tags = set(board.Tags()["tensors"]) - {"prompts/kept_per_block"}  # which is over blocks
        return {tag: [event.step for event in board.Tensors(tag)] for tag in tags}

    whole = run()
    saved = tmp_path / "board" / "version_0" / "checkpoints" / "prompt-last.ckpt"
    step = torch.load(saved, weights_only=True)["global_step"]  # as `--resume` does
    assert run(saved, purge_step=step) == whole
    assert {"run/card/text_summary", "prompts/scores", "val/accuracy"} <= whole.keys()
    config = (saved.parents[1] / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 2


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_nothing_of_the_training_changes_by_being_looked_at(
    fit: Fit, tuner: Tuner, tmp_path: Path, mode: str
) -> None:
    def run(name: str, *callbacks: Any) -> tuple[dict[str, Tensor], dict[str, Any], Tensor]:
        torch.manual_seed(1)
        condense = PromptCondensation([0.3, 0.6], prompt_epochs=2, finetune_epochs=1)
        module = tuner(prompt_dropout=0.3, mode=mode)
        logger = TensorBoardLogger(tmp_path, name=name)
        fit(condense, module, callbacks=callbacks, logger=logger, gradient_clip_val=0.1)
        report = {k: v for k, v in condense.report.items() if "seconds" not in k}
        report["budgets"] = [
            {k: v for k, v in entry.items() if "seconds" not in k} for entry in report["budgets"]
        ]
        return module.state_dict(), report, torch.get_rng_state()

    (plain, report, random), (seen, report_seen, random_seen) = (
        run("plain"),
        run("seen", PromptInspector()),
    )
    assert plain.keys() == seen.keys()
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    assert report == report_seen
    assert torch.equal(random, random_seen)


class _NoReading(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        if tags & {*func.tags} or func.overloadpacket is torch.ops.aten.lift_fresh:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_norm_of_a_gradient() -> None:
    bank, norms = PromptBank(3, 2, [4, 4, 8], 0.5), GradientNorms()
    assert norms.read_mean() is None
    expected = []
    for scale in 1.0, 3.0:
        for values in bank.parameters():
            values.grad = torch.randn_like(values) * scale
        with _NoReading():
            norms.add(bank)
        rows = [row for values in bank.parameters() for row in values.grad]
        expected.append(torch.stack([row.norm() for row in rows]))
    found = norms.read_mean()
    assert found is not None
    torch.testing.assert_close(found, torch.stack(expected).mean(0))
    assert norms.read_mean() is None


def test_a_few_steps_for_a_try_write_nothing(tuner: Tuner, trainer: Any, task: Any) -> None:
    used: lightning.Trainer = trainer([PromptInspector()], fast_dev_run=True)
    used.fit(tuner(), datamodule=task())
