"""What fails around a run loses nothing that was saved, and the error says what to do."""

import errno
import json
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import Runs, differences

pytestmark = pytest.mark.timeout(200)


def _fail_at(call: int, fail: Callable[[Any], None]) -> None:
    """Have ``fail`` called with the file of the given last checkpoint, amid the write."""
    from pcvpt.callbacks import checkpoint

    save, calls = torch.save, []

    def failing(content: Any, file: Any) -> None:
        calls.extend([1] * ("prompt-last" in file.name))
        if len(calls) == call:
            fail(file)
        save(content, file)

    checkpoint.torch.save = failing  # type: ignore[assignment]


def _no_space(file: Any) -> None:
    file.write(b"some")
    raise OSError(errno.ENOSPC, "No space left on device")


def _no_growth(file: Any) -> None:
    """Let no file grow any further: the write itself fails, in the system."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))


def _checkpoints(run: Path) -> dict[str, dict[str, Any]]:
    files = (run / "checkpoints").glob("*.ckpt")
    return {file.stem: torch.load(file, weights_only=True) for file in files}


@pytest.mark.parametrize(
    ("name", "fail", "reason"),
    [
        ("full", _no_space, "No space left on device"),
        ("limited", _no_growth, "File too large"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_that_was_there(
    runs: Runs, whole: dict[str, Any], name: str, fail: Callable[[Any], None], reason: str
) -> None:
    assert runs.finish(name, sabotage=partial(_fail_at, 2, fail)) == 2
    said = runs.said(name)
    last = runs.folder / name / "version_0" / "checkpoints" / "prompt-last.ckpt"
    assert f"pcvpt: error: {last}: can't be written ({reason})" in said
    assert "what was there before is unharmed" in said
    assert "Traceback" not in said
    assert _checkpoints(last.parent.parent)["prompt-last"]["epoch"] == 0
    assert not list(last.parent.glob(".*"))
    assert runs.finish(name, "--resume") == 0
    assert differences(whole, runs.outcome(name)) == []


def _kill_worker_at(call: int) -> None:
    from pcvpt.training.module import PromptTuner

    step, calls = PromptTuner.training_step, []

    def killing(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            for worker in multiprocessing.active_children():  # of train, and of val
                worker.kill()
        return step(self, *args)

    PromptTuner.training_step = killing  # type: ignore[method-assign]


def test_a_worker_that_is_killed_ends_the_run_with_one_line(
    runs: Runs, whole: dict[str, Any]
) -> None:
    options = ["--data.num_workers=1"]
    assert runs.finish("worker", *options, sabotage=partial(_kill_worker_at, 8)) == 2
    said = runs.said("worker")
    assert "pcvpt: error: a process that reads images was killed" in said
    assert "--data.num_workers" in said
    assert "Traceback" not in said
    assert runs.finish("worker", *options, "--resume") == 0, runs.said("worker")
    assert differences(whole, runs.outcome("worker")) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_becomes_unreadable_is_named_and_nothing_is_lost(
    runs: Runs, workers: int
) -> None:
    images, name = runs.folder / f"images-{workers}", f"images-{workers}-run"
    random = np.random.default_rng(0)
    for split, count in ("train", 24), ("val", 4):
        for label in "ab":
            (images / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(images / split / label / f"{number}.png")
    options = [
        *(
            "--data=pcvpt.data.ImageFolderDataModule",
            f"--data.root={images}",
            "--data.batch_size=8",
        ),
        f"--data.num_workers={workers}",
    ]
    victim = images / "train" / "b" / "7.png"
    intact = victim.read_bytes()
    assert runs.finish(name, *options, sabotage=partial(_damage_at, 9, str(victim))) == 2
    said = runs.said(name)
    (line,) = (line for line in said.splitlines() if line.startswith("pcvpt: error"))
    assert str(victim) in line
    assert "Traceback" not in said
    assert "prompt-last" in _checkpoints(runs.folder / name / "version_0")
    victim.write_bytes(intact)
    assert runs.finish(name, *options, "--resume") == 0, runs.said(name)
    assert runs.finish(f"{name}-whole", *options) == 0
    assert differences(runs.outcome(f"{name}-whole"), runs.outcome(name)) == []


def _damage_at(call: int, victim: str) -> None:
    """Have an image of the second epoch damaged, after all were checked."""
    from pcvpt.training.module import PromptTuner

    step, calls = PromptTuner.training_step, []

    def damaging(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            size = os.path.getsize(victim)
            Path(victim).write_bytes(b"\x89PNG" + bytes(size - 4))
        return step(self, *args)

    PromptTuner.training_step = damaging  # type: ignore[method-assign]


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    runs: Runs,
) -> None:
    assert runs.finish("nan", sabotage=partial(_poison_at, 9)) == 2
    run = runs.folder / "nan" / "version_0"
    (line,) = (one for one in runs.said("nan").splitlines() if one.startswith("pcvpt: error"))
    assert "the loss is not a finite number since batch 3 of epoch 2 (learning rate " in line
    assert f"the last good checkpoint is {run}/checkpoints/prompt-last.ckpt" in line
    assert "Traceback" not in runs.said("nan")
    saved = _checkpoints(run)
    assert saved["prompt-last"]["epoch"] == 0
    for checkpoint in saved.values():
        assert checkpoint["state_dict"]["model.prompts.values"].isfinite().all()


def test_weights_that_are_no_numbers_are_not_saved(runs: Runs, whole: dict[str, Any]) -> None:
    assert runs.finish("weights", sabotage=partial(_poison_gradient_at, 12)) == 2
    said = runs.said("weights")
    assert "weights are not finite numbers after step 12, in epoch 2; lower base_lr" in said
    saved = _checkpoints(runs.folder / "weights" / "version_0")
    assert saved["prompt-last"]["epoch"] == 0
    assert runs.finish("weights", "--resume") == 0
    assert differences(whole, runs.outcome("weights")) == []


def _poison_gradient_at(call: int) -> None:
    """Let the gradients of a step be NaN, and its loss finite."""
    from pcvpt.training.module import PromptTuner

    step, calls = PromptTuner.on_before_optimizer_step, []

    def poisoned(self: Any, optimizer: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
        step(self, optimizer)

    PromptTuner.on_before_optimizer_step = poisoned  # type: ignore[method-assign]


def _poison_at(call: int) -> None:
    from pcvpt.training.module import PromptTuner

    step, calls = PromptTuner._step, []

    def poisoned(self: Any, batch: Any, stage: str) -> Any:
        loss = step(self, batch, stage)
        calls.extend([1] * (stage == "train"))
        return loss * float("nan") if len(calls) == call and stage == "train" else loss

    PromptTuner._step = poisoned  # type: ignore[method-assign]


def test_a_learning_rate_that_is_far_too_high_is_what_the_message_says(runs: Runs) -> None:
    assert runs.finish("high", "--model.prompt.base_lr=1e38") == 2
    said = runs.said("high")
    assert "the loss is not a finite number since batch " in said
    assert "lower base_lr" in said


def test_two_processes_do_not_train_one_run(runs: Runs) -> None:
    name = "shared"
    assert runs.finish(name, sabotage=partial(_stop_at, 14)) == -9
    holder = runs.start(name, "--resume", sabotage=partial(_wait_at, 2))
    waiting = runs.folder / "waiting"
    while not waiting.exists():
        assert holder.exitcode is None, runs.said(name)
        holder.join(0.1)
    assert runs.finish(name, "--resume") == 2
    holder.kill()
    holder.join()
    said = f"process {holder.pid} on "
    assert said in runs.said(name)
    environment = json.loads((runs.folder / name / "version_0" / "environment.json").read_text())
    assert len(environment["starts"]) == 2
    assert runs.finish(name, "--resume") == 0  # the lock went with its holder


def _stop_at(call: int) -> None:
    from .test_kills import die_at

    die_at("pcvpt.training.module:PromptTuner.training_step", call)


def _wait_at(call: int) -> None:
    from pcvpt.training.module import PromptTuner

    step, calls = PromptTuner.training_step, []

    def waits(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            folder = Path(self.trainer.log_dir).parent.parent
            (folder / "waiting").touch()
            signal.pause()
        return step(self, *args)

    PromptTuner.training_step = waits  # type: ignore[method-assign]
