"""A resumed run equals the uninterrupted one, bit for bit, with dropout and augmentation on."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from factories import STEPS, Fit, Run, TinyData, differences, make_tuner, scripted
from lightning.pytorch.callbacks import Checkpoint

from pcvpt import UsageError
from pcvpt.callbacks import PhaseCheckpoint

slow = pytest.mark.slow
ONE = {"prompt_epochs": 2, "finetune_epochs": 2}
TWO = {"keep": [0.5, 0.1], "finetune_epochs": 2, "rewind": True}
PATIENCE = {"prompt_epochs": 3, "finetune_epochs": 2, "patience": 1, "monitor": "scripted"}
MERGE = {"keep": [0.5, 0.1], "finetune_epochs": 2, "method": "merge"}
RUNS = {"one": ONE, "two": TWO, "patience": PATIENCE, "merge": MERGE}


class CopyLast(Checkpoint):
    """Copies each last checkpoint to ``<epoch>-<batch>.ckpt``, as if the run were killed there."""

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, n: int) -> None:
        self._copy(trainer, n)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._copy(trainer, STEPS)

    def _copy(self, trainer: Any, batch: int) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        for path in folder.glob("*-last.ckpt"):
            if torch.load(path, weights_only=True)["global_step"] == trainer.global_step:
                shutil.copy(path, folder / f"{trainer.current_epoch}-{batch}.ckpt")


def _train(folder: Path, condense: dict[str, Any], every: int | None = None, **options: Any) -> Run:
    """Fit with dropout, or, for PATIENCE, so that prompt training ends after two epochs."""
    torch.manual_seed(1)
    module = make_tuner(prompt_dropout=0.3)
    if condense is PATIENCE:
        module = scripted(3.0, 2.0, 9.0, 9.0, 9.0)
    callbacks = [PhaseCheckpoint(every_n_steps=every, every_seconds=0), CopyLast()]
    return factories.fit(folder, condense, module, callbacks=callbacks, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    return cache(lambda name: _train(tmp_path_factory.mktemp(name), RUNS[name]))


@pytest.fixture
def one(finished: Callable[[str], Run]) -> Run:
    return finished("one")


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        *(("one", 1), ("one", 2), ("two", 2), ("patience", 1), ("merge", 1), ("merge", 2)),
        *(pytest.param("one", 0, marks=slow), pytest.param("patience", 0, marks=slow)),
        *(pytest.param(name, epoch, marks=slow) for name in ("two", "merge") for epoch in (0, 3)),
        pytest.param("two", 1, marks=slow),
        pytest.param("patience", 2, marks=slow),
    ],
)
def test_a_run_resumed_after_an_epoch_does_the_rest_of_the_uninterrupted_one_and_no_more(
    finished: Callable[[str], Run], tmp_path: Path, name: str, epoch: int
) -> None:
    full = finished(name)
    resumed = _train(tmp_path, RUNS[name], ckpt_path=full.checkpoint(f"{epoch}-{STEPS}"))
    assert resumed.watch.epochs == full.watch.epochs[STEPS * (epoch + 1) :]
    assert resumed.watch.rates == full.watch.rates[STEPS * (epoch + 1) :]
    assert (
        full.trainer.current_epoch
        == resumed.trainer.current_epoch
        == (5 if name in ("two", "merge") else 4)
    )
    assert differences(full.outcome(), resumed.outcome()) == []
    for path in tmp_path.glob("checkpoints/finetune*"):
        assert differences(full.state(path.stem), resumed.state(path.stem)) == []
    entries = resumed.report.get("budgets", [resumed.report])
    assert all("accuracy_finetuned" in entry for entry in entries)
    assert not resumed.module.model.prompts.keep.all()


@pytest.mark.parametrize(
    ("workers", "accumulated", "epoch", "batch"),
    [
        (0, 1, 0, 2),
        pytest.param(0, 2, 1, 3, marks=slow),
        pytest.param(1, 1, 3, 1, marks=slow),
        *(pytest.param(0, 1, n // 4, n % 4, marks=slow) for n in range(20) if n != 2),
    ],
)
def test_a_run_resumed_within_an_epoch_equals_the_uninterrupted_one(
    tmp_path: Path, workers: int, accumulated: int, epoch: int, batch: int
) -> None:
    def train(name: str, saved: Path | None = None) -> Run:
        options = {"every": 1, "accumulate_grad_batches": accumulated, "ckpt_path": saved}
        return _train(tmp_path / name, TWO, data=TinyData(num_workers=workers), **options)

    full = train("full")
    resumed = train("resumed", full.checkpoint(f"{epoch}-{batch}"))
    assert len(resumed.watch.epochs) == STEPS * (5 - epoch) - batch - 1
    assert differences(full.outcome(), resumed.outcome()) == []


@pytest.mark.parametrize(
    ("condense", "epochs"),
    [
        ({"prompt_epochs": 2}, [2] * STEPS),  # fewer
        ({"finetune_epochs": 2}, [2] * STEPS + [3] * STEPS),  # already passed
    ],
)
def test_other_numbers_of_epochs_may_be_given_when_resuming(
    fit: Fit, one: Run, condense: dict[str, Any], epochs: list[int]
) -> None:
    saved = one.checkpoint(f"1-{STEPS}")
    run = fit(condense, ckpt_path=saved)
    assert run.watch.epochs == epochs
    assert set(run.watch.phases) == {"finetune"}
    state = torch.load(saved, weights_only=True)["callbacks"]["PromptCondensation"]
    assert run.report["seconds_prompt"] >= state["report"]["seconds_prompt"] > 0


def test_a_resumed_run_may_rewind_although_the_first_did_not(one: Run, fit: Fit) -> None:
    run = fit({"prompt_epochs": 2, "rewind": True}, ckpt_path=one.checkpoint(f"1-{STEPS}"))
    assert torch.equal(run.watch.prompts[0], one.watch.prompts[0])


def test_a_run_of_several_budgets_is_not_resumed_within_them_with_others(
    fit: Fit, finished: Callable[[str], Run]
) -> None:
    saved = finished("two").checkpoint(f"1-{STEPS}")
    for other in [0.5, 0.3], 0.5:
        with pytest.raises(UsageError, match=r"fine-tuning of 0\.5, 0\.1 for 2 epochs"):
            fit({"keep": other, "finetune_epochs": 2}, ckpt_path=saved)


@pytest.mark.parametrize("finetune_keep", [[0.3], [], pytest.param(None, marks=slow)])
def test_the_prompts_of_a_finished_run_are_condensed_to_a_list(
    fit: Fit, one: Run, finetune_keep: list[float] | None
) -> None:
    last, module = one.checkpoint("prompt-last"), make_tuner(prompt_dropout=0.3)
    condense = {**ONE, "keep": [0.5, 0.3], "finetune_keep": finetune_keep}
    run = fit(condense, module, callbacks=[PhaseCheckpoint()], ckpt_path=last)
    wanted = [0.5, 0.3] if finetune_keep is None else finetune_keep
    entries = run.report["budgets"]
    assert len(run.watch.epochs) == 2 * STEPS * len(wanted)
    assert [entry["keep"] for entry in entries if "accuracy_finetuned" in entry] == wanted
    for figure in "kept", "accuracy_masked", *(["accuracy_finetuned"] if wanted else []):
        assert entries[1][figure] == one.report[figure]
    assert run.report["accuracy_before"] == one.report["accuracy_before"]
    assert {"masked_0.5", "masked_0.3"} <= run.checkpoints()
    if not wanted:
        assert module.model.prompts.keep.all()
        trained = one.state("prompt-last")["model.prompts.values"]
        assert torch.equal(module.model.prompts.values, trained)


def test_the_time_within_an_epoch_is_saved_and_a_module_can_be_trained_again(fit: Fit) -> None:
    plain, module = {"keep": None}, make_tuner()
    run = fit(plain, callbacks=[PhaseCheckpoint(every_n_steps=4), CopyLast()])
    state = run.load("0-3")["callbacks"]["PromptCondensation"]
    assert 0 < state["report"]["seconds_prompt"] < run.report["seconds_prompt"]
    fit(plain, module, ckpt_path=run.checkpoint("0-3"))
    assert len(fit(plain, module).watch.epochs) == STEPS
    assert torch.initial_seed() == 0  # that of the run, not of its last batch


@slow
def test_patience_knows_of_a_validation_before_the_run_was_resumed(tmp_path: Path) -> None:
    condense = {"prompt_epochs": 3, "patience": 1}
    options = {"every": 1, "val_check_interval": 0.6}  # after the third batch of five
    full = _train(tmp_path / "full", condense, **options)
    resumed = _train(tmp_path / "on", condense, ckpt_path=full.checkpoint("0-3"), **options)
    assert differences(full.outcome(), resumed.outcome()) == []
