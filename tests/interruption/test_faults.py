"""What fails around a run loses nothing that was saved, and the error says what to do."""

import json
import re
from collections.abc import Callable

import numpy as np
import pytest
from commands import differences
from commands.callbacks import (
    at,
    damage,
    fill_disk,
    kill,
    kill_workers,
    limit_files,
    poison_gradients,
    poison_images,
    wait,
)
from PIL import Image

from .conftest import Interrupted

STEP = "on_train_batch_start"
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("moment", "fail", "reason"),
    [
        ("os.replace prompt-last.ckpt", fill_disk, "No space left on device"),
        pytest.param("on_train_epoch_end", limit_files, "File too large", marks=SLOW),
    ],
)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    runs: Interrupted, moment: str, fail: Callable[..., None], reason: str
) -> None:
    name = fail.__name__
    assert runs.finish(name, fault=at(moment, 2, fail)) == 2
    checkpoints = runs.run_folder(name) / "checkpoints"
    assert re.search(rf"{checkpoints}/prompt-\w+\.ckpt.*\({reason}\)", runs.error(name))
    assert runs.checkpoint(name, "prompt-last")["epoch"] == 0
    assert not list(checkpoints.glob(".*"))
    runs.resume(name)


@SLOW
def test_a_worker_that_is_killed_ends_the_run_with_one_line(runs: Interrupted) -> None:
    workers = ("--data.num_workers=1", "--data.cache=none")
    assert runs.finish("worker", *workers, fault=at(STEP, 8, kill_workers)) == 2
    assert "--data.num_workers" in runs.error("worker")
    runs.resume("worker", *workers)


@SLOW
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_becomes_unreadable_is_named_and_nothing_is_lost(
    runs: Interrupted, workers: int
) -> None:
    images, name = runs.folder / f"images-{workers}", f"images-{workers}-run"
    random = np.random.default_rng(0)
    for split, count in ("train", 24), ("val", 4):
        for label in "ab":
            (images / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(images / split / label / f"{number}.png")
    options = ["--data=pcvpt.data.ImageFolderDataModule", f"--data.root={images}"]
    options += ["--data.batch_size=8", f"--data.num_workers={workers}"]
    victim = images / "train" / "b" / "7.png"
    intact = victim.read_bytes()
    # In the second epoch, after all images were checked.
    assert runs.finish(name, *options, fault=at(STEP, 9, damage, str(victim))) == 2
    assert str(victim) in runs.error(name)
    assert runs.checkpoint(name, "prompt-last")
    victim.write_bytes(intact)
    assert runs.finish(name, *options, "--resume") == 0, runs.said(name)
    assert runs.finish(f"{name}-whole", *options) == 0
    assert differences(runs.outcome(f"{name}-whole"), runs.outcome(name)) == []


@pytest.mark.parametrize(
    ("moment", "call", "poison", "place"),
    [
        (STEP, 9, poison_images, "batch 3 of epoch 2"),
        ("on_before_optimizer_step", 12, poison_gradients, "step 12, in epoch 2"),
    ],
)
def test_what_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    runs: Interrupted, moment: str, call: int, poison: Callable[..., None], place: str
) -> None:
    name = poison.__name__
    assert runs.finish(name, fault=at(moment, call, poison)) == 2
    error = runs.error(name)
    assert place in error
    assert "base_lr" in error or f"{runs.run_folder(name)}/checkpoints/prompt-last.ckpt" in error
    saved = runs.checkpoint(name, "prompt-last")
    assert saved["epoch"] == 0
    assert saved["state_dict"]["model.prompts.values"].isfinite().all()
    runs.resume(name)


def test_a_learning_rate_that_is_far_too_high_is_what_the_message_says(runs: Interrupted) -> None:
    assert runs.finish("high", "--model.prompt.base_lr=1e38") == 2
    assert "lower base_lr" in runs.error("high")


@SLOW
def test_two_processes_do_not_train_one_run(runs: Interrupted) -> None:
    name, waiting = "shared", runs.folder / "waiting"
    assert runs.finish(name, fault=at(STEP, 14, kill)) == -9
    holder = runs.start(name, "--resume", fault=at(STEP, 2, wait, str(waiting)))
    while not waiting.exists():
        assert holder.exitcode is None, runs.said(name)
        holder.join(0.1)
    assert runs.finish(name, "--resume") == 2
    holder.kill()
    holder.join()
    assert str(holder.pid) in runs.error(name)
    environment = json.loads((runs.run_folder(name) / "environment.json").read_text())
    assert len(environment["starts"]) == 2
    runs.resume(name)  # the lock went with its holder
