"""A run that is stopped before its end is not finished: it has no results, and can be resumed.

Lightning's ``max_time``, and any callback, stop a run by ``trainer.should_stop``.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from factories import STEPS, Fit, differences, make_tuner, scripted
from lightning.pytorch.callbacks import Callback

from pcvpt.callbacks import AdapterWriter, PhaseCheckpoint, RunRecord, RunSummary
from pcvpt.runs.signals import Interrupted

RESULTS = ("results.json", "adapter.safetensors")


class Stop(Callback):
    """Stops the run at the call with a number, from 1, of one of the hooks."""

    def __init__(self, hook: str, call: int) -> None:
        self.left = call
        setattr(self, hook, self.reached)

    def reached(self, trainer: Any, *_: Any) -> None:
        self.left -= 1
        trainer.should_stop |= self.left == 0


def _writers() -> list[Callback]:
    return [RunRecord(), PhaseCheckpoint(), AdapterWriter(), RunSummary()]


@pytest.mark.parametrize(
    ("hook", "call", "options", "saved", "batches"),
    [
        ("on_train_batch_end", 2, {}, "prompt-last", 2),
        ("on_fit_start", 1, {}, "prompt-last", 1),
        ("on_train_batch_start", 2, {"accumulate_grad_batches": 3}, "prompt-last", 3),
        ("on_validation_end", 1, {}, "prompt-last", STEPS),
        ("on_validation_end", 1, {"val_check_interval": 2}, "prompt-last", 3),
        ("on_train_epoch_end", 1, {}, "prompt-last", STEPS),
        ("on_train_batch_end", STEPS + 3, {}, "finetune-last", STEPS + 3),
    ],
)
def test_a_run_that_is_stopped_is_not_finished_and_goes_on_when_it_is_resumed(
    fit: Fit,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    hook: str,
    call: int,
    options: dict[str, Any],
    saved: str,
    batches: int,
) -> None:
    with pytest.raises(Interrupted) as end:
        fit(callbacks=[Stop(hook, call), *_writers()], **options)
    assert end.value.code == 75
    assert "Stopped before its end" in capfd.readouterr().err
    assert not any((tmp_path / name).exists() for name in RESULTS)
    last = tmp_path / "checkpoints" / f"{saved}.ckpt"
    run = fit(callbacks=_writers(), ckpt_path=last, **options)
    assert len(run.watch.epochs) == 2 * STEPS - batches
    assert all((tmp_path / name).exists() for name in RESULTS)


def test_a_stopped_run_ends_like_one_that_was_not_stopped(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(
            module=make_tuner(prompt_dropout=0.3),
            callbacks=[Stop("on_train_batch_end", 3), PhaseCheckpoint()],
        )
    last = tmp_path / "checkpoints" / "prompt-last.ckpt"
    resumed = fit(module=make_tuner(prompt_dropout=0.3), ckpt_path=last)
    full = fit(module=make_tuner(prompt_dropout=0.3))
    assert differences(full.outcome(), resumed.outcome()) == []


def test_a_stop_at_the_very_end_changes_nothing(fit: Fit, tmp_path: Path) -> None:
    fit(callbacks=[Stop("on_train_batch_end", 2 * STEPS), *_writers()])
    assert all((tmp_path / name).exists() for name in RESULTS)


@pytest.mark.parametrize("call", [2, STEPS, STEPS + 2])
def test_without_checkpoints_a_stopped_run_has_no_results_and_says_so(
    fit: Fit, tmp_path: Path, call: int
) -> None:
    with pytest.warns(UserWarning, match="stopped in epoch . of 2: it is not finished"):
        fit(callbacks=[Stop("on_train_batch_end", call), AdapterWriter(), RunSummary()])
    assert not any((tmp_path / name).exists() for name in RESULTS)


def test_the_time_of_max_time_begins_anew_with_each_start(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(callbacks=_writers(), max_time=timedelta(0))
    last = tmp_path / "checkpoints" / "prompt-last.ckpt"
    with pytest.raises(Interrupted):
        fit(callbacks=_writers(), max_time=timedelta(0), ckpt_path=last)
    assert fit(callbacks=_writers(), max_time=timedelta(1), ckpt_path=last).report


@pytest.mark.parametrize(
    ("script", "options", "epochs"),
    [
        ((0, 2, 9, 3, 9, 1, 9, 9), {"check_val_every_n_epoch": 2}, 6),
        ((2, 1, 9), {"val_check_interval": 2}, 1),  # two validations in an epoch
        ((0, 2, 9, 3, 9, 1, 9, 9), {"check_val_every_n_epoch": None, "val_check_interval": 10}, 6),
    ],
)
def test_patience_counts_the_validations_that_happened(
    fit: Fit, script: tuple[float, ...], options: dict[str, Any], epochs: int
) -> None:
    condense = {"prompt_epochs": 8, "patience": 1, "monitor": "scripted", "keep": None}
    run = fit(condense, scripted(*script), num_sanity_val_steps=1, **options)
    assert run.trainer.current_epoch == epochs
