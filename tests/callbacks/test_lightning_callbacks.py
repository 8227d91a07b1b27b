"""Each callback of Lightning works in a run of two phases, or is refused by name with a remedy."""

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks as pl_callbacks
import pytest
from factories import Fit, Run, TinyData, make_trainer, make_tuner
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from pcvpt import PromptCondensation, UsageError
from pcvpt.callbacks import AdapterWriter, PhaseCheckpoint, PromptInspector, RunRecord, RunSummary
from pcvpt.training.preflight import check_callbacks

WORKING: dict[str, dict[str, Any]] = {  # with their arguments
    "BasePredictionWriter": {},
    "Callback": {},
    "Checkpoint": {},
    "DeviceStatsMonitor": {},
    "LambdaCallback": {},
    "LearningRateMonitor": {},
    "ModelCheckpoint": {"monitor": "val/accuracy", "mode": "max"},
    "ModelSummary": {},
    "OnExceptionCheckpoint": {"dirpath": "exceptions"},
    "ProgressBar": {},
    "RichModelSummary": {},
    "RichProgressBar": {},
    "SpikeDetection": {},
    "TQDMProgressBar": {},
    "ThroughputMonitor": {"batch_size_fn": lambda batch: len(batch[0])},
    "Timer": {},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {  # with their arguments, and the remedy
    "BackboneFinetuning": ({}, "leave it out"),
    "BaseFinetuning": ({}, "leave it out"),
    "BatchSizeFinder": ({}, "data.batch_size"),
    "EMAWeightAveraging": ({}, "leave it out"),
    "EarlyStopping": ({"monitor": "val/accuracy"}, "condense.patience"),
    "GradientAccumulationScheduler": ({"scheduling": {1: 2}}, "trainer.accumulate_grad_batches"),
    "LearningRateFinder": ({}, "base_lr"),
    "ModelPruning": ({"pruning_fn": "l1_unstructured"}, "condense.keep"),
    "StochasticWeightAveraging": ({"swa_lrs": 0.1}, "leave it out"),
    "WeightAveraging": ({}, "leave it out"),
}
BARS = [name for name in WORKING if issubclass(getattr(pl_callbacks, name), ProgressBar)]


def _writers() -> list[Callback]:
    return [RunRecord(), PhaseCheckpoint(), AdapterWriter(), RunSummary()]


def test_every_callback_of_lightning_is_in_one_of_the_tables() -> None:
    assert sorted([*WORKING, *REFUSED]) == sorted(pl_callbacks.__all__)


@pytest.mark.parametrize("bar", BARS)
def test_a_run_with_all_the_callbacks_that_work_has_its_results(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bar: str
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [name for name in WORKING if name == bar or name not in BARS]
    given = [getattr(pl_callbacks, name)(**WORKING[name]) for name in names]
    options: dict[str, Any] = {"enable_progress_bar": True, "limit_train_batches": 1}
    run = fit(
        {"method": "merge"}, callbacks=[*_writers(), *given], logger=CSVLogger("."), **options
    )
    assert run.trainer.current_epoch == 2
    folder = Path(run.trainer.log_dir or "")
    assert (folder / "results.json").is_file()
    assert (folder / "adapter.safetensors").is_file()


@pytest.mark.parametrize("name", REFUSED)
def test_a_callback_that_would_spoil_a_run_is_refused_with_a_remedy(fit: Fit, name: str) -> None:
    arguments, remedy = REFUSED[name]
    kind = getattr(pl_callbacks, name)
    mine = type("Mine", (kind,), {})(**arguments)
    with pytest.raises(UsageError, match=f"callback Mine is not supported: .*{remedy}"):
        fit(callbacks=[mine])
    options = {"trainer": {"callbacks": {"class_path": f"lightning.pytorch.callbacks.{name}"}}}
    with pytest.raises(UsageError, match=f"{name} is not supported"):
        check_callbacks("fit", options)
    check_callbacks("test", options)


class Hooked(Callback):
    """Holds the Trainer, follows the model by a hook, and copies the module at each step."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.trainer, self.copies = trainer, 0
        pl_module.model.register_forward_hook(self.hook)

    def hook(self, *_: Any) -> None:
        pass

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        copy.deepcopy(pl_module)
        self.copies += 1


def test_a_module_whose_hooks_reach_the_run_can_be_copied(fit: Fit, tmp_path: Path) -> None:
    hooked, callbacks = Hooked(), [*_writers(), PromptInspector()]
    logger = TensorBoardLogger(tmp_path, version="run")
    fit(callbacks=[*callbacks, hooked], limit_train_batches=1, logger=logger)
    assert hooked.copies == 2
    assert list(tmp_path.rglob("adapter.safetensors"))


@pytest.mark.parametrize("monitor", ["foo", "val_accuracy"])
def test_a_monitor_that_is_never_logged_is_refused_before_data_are_read(
    tmp_path: Path, monitor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(TinyData, "read_splits", fail)
    callbacks = [PromptCondensation(prompt_epochs=1), ModelCheckpoint(monitor=monitor)]
    with pytest.raises(UsageError, match=f"ModelCheckpoint.monitor='{monitor}'.*val/accuracy"):
        make_trainer(tmp_path, callbacks).fit(make_tuner(), datamodule=TinyData())


class Logs(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("mine", 1.0)


def test_a_metric_that_a_callback_logs_can_be_monitored(fit: Fit, tmp_path: Path) -> None:
    last = ModelCheckpoint(tmp_path, monitor="mine", save_on_train_epoch_end=True)
    run: Run = fit({"keep": None}, callbacks=[last, Logs()], limit_train_batches=1)
    assert run.trainer.checkpoint_callback is last
    assert Path(last.best_model_path).is_file()
