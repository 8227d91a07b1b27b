"""Every key of ``trainer`` reaches Lightning's Trainer, or is refused."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelSummary, Timer
from lightning.pytorch.plugins.environments import LightningEnvironment

from pcvpt.errors import UsageError
from pcvpt.training.preflight import check_left_out, check_ranges


class Acts(NamedTuple):
    """A value, and where the Trainer shows it, if it shows another value there."""

    value: Any
    shown: Callable[[Any], Any]
    as_: Any = None


class Refused(NamedTuple):
    value: Any


OWN, CLUSTER = Callback(), LightningEnvironment()
KEYS: dict[str, Acts | Refused] = {
    "accelerator": Acts("cpu", lambda t: type(t.accelerator).__name__, "CPUAccelerator"),
    "strategy": Acts("ddp", lambda t: type(t.strategy).__name__, "DDPStrategy"),
    "devices": Acts(2, lambda t: t.num_devices),
    "num_nodes": Acts(2, lambda t: t.num_nodes),
    "precision": Acts("bf16-mixed", lambda t: t.precision),
    "logger": Acts(False, lambda t: bool(t.loggers)),
    "callbacks": Acts([OWN], lambda t: OWN in t.callbacks, True),
    "fast_dev_run": Acts(3, lambda t: t.fast_dev_run),
    "limit_train_batches": Acts(3, lambda t: t.limit_train_batches),
    "limit_val_batches": Acts(3, lambda t: t.limit_val_batches),
    "limit_test_batches": Acts(3, lambda t: t.limit_test_batches),
    "limit_predict_batches": Acts(3, lambda t: t.limit_predict_batches),
    "overfit_batches": Acts(3, lambda t: t.overfit_batches),
    "val_check_interval": Acts(0.5, lambda t: t.val_check_interval),
    "check_val_every_n_epoch": Acts(3, lambda t: t.check_val_every_n_epoch),
    "num_sanity_val_steps": Acts(3, lambda t: t.num_sanity_val_steps),
    "log_every_n_steps": Acts(3, lambda t: t.log_every_n_steps),
    "enable_checkpointing": Acts(False, lambda t: bool(t.checkpoint_callbacks)),
    "enable_progress_bar": Acts(False, lambda t: t.progress_bar_callback is not None),
    "enable_model_summary": Acts(
        False, lambda t: any(isinstance(c, ModelSummary) for c in t.callbacks)
    ),
    "accumulate_grad_batches": Acts(3, lambda t: t.accumulate_grad_batches),
    "gradient_clip_val": Acts(0.3, lambda t: t.gradient_clip_val),
    "gradient_clip_algorithm": Refused("value"),  # without gradient_clip_val
    "deterministic": Acts(True, lambda t: torch.are_deterministic_algorithms_enabled()),
    "benchmark": Acts(True, lambda t: torch.backends.cudnn.benchmark),
    "inference_mode": Acts(False, lambda t: t.validate_loop.inference_mode),
    "profiler": Acts("simple", lambda t: type(t.profiler).__name__, "SimpleProfiler"),
    "detect_anomaly": Acts(True, lambda t: t._detect_anomaly),
    "barebones": Acts(True, lambda t: t.barebones),
    "plugins": Acts([CLUSTER], lambda t: [t._accelerator_connector.cluster_environment]),
    "reload_dataloaders_every_n_epochs": Acts(3, lambda t: t.reload_dataloaders_every_n_epochs),
    "default_root_dir": Acts("elsewhere", lambda t: Path(t.default_root_dir).name),
    "max_epochs": Refused(3),
    "min_epochs": Refused(3),
    "max_steps": Refused(3),
    "min_steps": Refused(3),
    "max_time": Acts("00:01:00:00", lambda t: any(isinstance(c, Timer) for c in t.callbacks), True),
    "use_distributed_sampler": Refused(False),
    "sync_batchnorm": Refused(True),
    "enable_autolog_hparams": Refused(False),
    "model_registry": Refused("mine"),
}
DEFAULTS = {name: p.default for name, p in inspect.signature(pl.Trainer).parameters.items()}


@pytest.fixture(autouse=True)
def _settings_of_torch() -> Any:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


def _check(options: dict[str, Any]) -> None:
    for check in (check_left_out, check_ranges):
        check("fit", options)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_key_of_the_trainer_acts_or_is_refused(name: str, work: Path) -> None:
    assert name in KEYS, "a new key of Lightning: does it act? add it to the table"
    key = KEYS[name]
    options = {"seed_everything": 0, "trainer": {**DEFAULTS, name: key.value}}
    if isinstance(key, Refused):
        with pytest.raises(UsageError, match=rf"trainer\.{name}=.*leave it out"):
            _check(options)
        return
    _check(options)
    trainer = pl.Trainer(**{"accelerator": "cpu", name: key.value})
    assert key.shown(trainer) == (key.value if key.as_ is None else key.as_)
