"""Checks before a run: they refuse what would fail late, or silently give wrong results.

The command asks those that take its options before anything is made; the LightningModule asks those
that take objects, for a Trainer that was made in Python.
"""

import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any

import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from pcvpt.errors import UsageError

_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "gradient_clip_val": 0,
    "num_nodes": 1,
}
_EPOCHS = "the length of a run is condense.prompt_epochs + condense.finetune_epochs"
_LEFT_OUT = {  # options of the Trainer that would do nothing or harm, with their defaults
    "max_epochs": (None, _EPOCHS),
    "min_epochs": (None, _EPOCHS),
    "min_steps": (None, _EPOCHS),
    "max_steps": (-1, "it would end a run between its phases"),
    "sync_batchnorm": (False, "no backbone has a batch norm"),
    "use_distributed_sampler": (True, "the data always divide the images among processes"),
    "enable_autolog_hparams": (True, "what a run logs as its settings is not Lightning's"),
    "model_registry": (None, "Lightning uses it for a checkpoint callback of its own only"),
}
_AVERAGES = "an average over both phases mixes prompts that condensing changes; leave it out"
_CALLBACKS = {  # of Lightning, with the reason against them, and what to do
    "BaseFinetuning": "the backbone stays frozen, and checkpoints do not hold it; leave it out",
    "BatchSizeFinder": "the learning rates follow the batch; give data.batch_size",
    "EarlyStopping": "it would end a run between its phases; give condense.patience",
    "GradientAccumulationScheduler": "the learning rates follow the images of a step, whose number "
    "must stay the same; give trainer.accumulate_grad_batches",
    "LearningRateFinder": "each phase has its own rate; give base_lr of model.prompt and of "
    "model.finetune",
    "ModelPruning": "adapters and checkpoints do not hold a pruned backbone; prompts are pruned by "
    "condense.keep",
    "StochasticWeightAveraging": _AVERAGES,
    "WeightAveraging": _AVERAGES,
}
_UNTESTED = "condensing is not tested with it"
_TEST_METRIC = re.compile(r"test(?![a-z])", re.IGNORECASE)


_DIVIDES = (
    "it divides each parameter among the devices, but scoring and masking need whole prompts on "
    "each; and there is little to divide, since the backbone is frozen"
)
_STRATEGIES = {  # by a part of their registered names and classes, without "_"
    "fsdp": _DIVIDES,
    "modelparallel": _DIVIDES,
    "deepspeed": "it keeps the optimizer that a run starts with, but the second phase needs a new "
    "one",
    "xla": _UNTESTED,
    "tpu": _UNTESTED,
}
_STRATEGY_OPTIONS = {
    "static_graph": "DDP then relies on steps that are all alike, but the second phase has fewer "
    "prompts",
    "model_averaging_period": "devices then train apart for some steps, and would score different "
    "prompts",
}


def require_supported(strategy: Strategy) -> None:
    """Refuse any strategy but one device and DDP, and one device for each of several processes."""
    # Lightning keeps what DDP was given in no public place.
    period = getattr(strategy, "_model_averaging_period", None)
    given = {**getattr(strategy, "_ddp_kwargs", {}), "model_averaging_period": period}
    names = [base.__name__ for base in type(strategy).__mro__]
    _refuse_strategy(names, given)
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise _strategy_error(names[0], _UNTESTED)
    elastic = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    launcher, number = ("torchrun", "WORLD_SIZE") if elastic else ("srun", "SLURM_STEP_NUM_TASKS")
    started = os.environ.get(number, "1")
    if isinstance(strategy, SingleDeviceStrategy) and started != "1":
        raise UsageError(
            f"{launcher} has started {started} processes, but each would run alone; give "
            "trainer.strategy=ddp, trainer.devices (processes of a node) and trainer.num_nodes"
        )


def _refuse_strategy(names: Sequence[str], options: Mapping[str, Any]) -> None:
    for part, reason in _STRATEGIES.items():
        if any(part in name.lower().replace("_", "") for name in names):
            raise _strategy_error(names[0], reason)
    for option, reason in _STRATEGY_OPTIONS.items():
        if value := options.get(option):
            raise UsageError(f"{option}={value} is not supported: {reason}; leave it out")


def _strategy_error(name: str, reason: str) -> UsageError:
    remedy = "use one device, or trainer.strategy=ddp"
    return UsageError(f"strategy {name} is not supported: {reason}; {remedy}")


def check_monitor(metric: str, option: str) -> None:
    """Refuse a ``metric`` that must not choose a checkpoint, or whose lower values are better.

    That is one of the test split, or a loss. ``option`` is the name of the option that holds it.
    """
    _refuse_test_metric(metric, option)
    if "loss" in metric.lower():
        raise UsageError(
            f"{option}={metric!r}: the highest value counts as the best, and the highest loss is "
            "the worst; give an accuracy, such as val/accuracy"
        )


def _refuse_test_metric(metric: str, option: str) -> None:
    if _TEST_METRIC.match(metric):
        raise UsageError(
            f"{option}={metric!r}: the test split must not choose anything, or its accuracy would "
            "be too high; give a metric of the validation split, such as val/accuracy"
        )


def check_fit(callbacks: Collection[Any], logged: Collection[str]) -> None:
    """Raise a UsageError for a callback that a fit can't have, or whose monitor is impossible.

    That is a metric of the test split, or one that is not ``logged`` by the module, if no callback
    is of the user's, which could log it.
    """
    _refuse_callbacks(map(type, callbacks))
    own = any(
        isinstance(c, lightning_callbacks.LambdaCallback)
        or not type(c).__module__.startswith(("pcvpt.", "lightning."))
        for c in callbacks
    )
    for callback in callbacks:
        metric, option = getattr(callback, "monitor", None), f"{type(callback).__name__}.monitor"
        if not isinstance(metric, str):
            continue
        _refuse_test_metric(metric, option)
        if logged and metric not in logged and not own:
            raise UsageError(f"{option}={metric!r} is not logged; take one of {', '.join(logged)}")


def _refuse_callbacks(kinds: Iterable[Any]) -> None:
    for kind in kinds:
        for name, reason in _CALLBACKS.items():
            if isinstance(kind, type) and issubclass(kind, getattr(lightning_callbacks, name)):
                raise UsageError(f"callback {kind.__name__} is not supported: {reason}")


def require_compiler(device: str, mode: bool | str = True) -> None:
    """Refuse to compile a model for a ``device`` ("cpu", "cuda") without what torch needs for it.

    That is a C++ compiler for the CPU, and Triton with a C compiler for a GPU; torch would complain
    at the first step. ``mode`` is the value of the option, for the message.
    """
    variable, language, names = "CC", "C", ["gcc", "clang", "cc"]
    if device == "cpu":
        names = {"darwin": ["clang++"], "win32": ["cl"]}.get(sys.platform, ["g++"])
        variable, language = "CXX", "C++"
    if os.environ.get(variable):
        names = [os.environ[variable]]
    if device == "cuda" and find_spec("triton") is None:
        missing, remedy = "the package triton", "install it"
    elif not any(shutil.which(name.split()[0]) for name in names):
        missing = f"a {language} compiler, and there is no {' or '.join(map(repr, names))}"
        remedy = f"install one, name it in the environment variable {variable}"
    else:
        return
    raise UsageError(f"compile={mode} needs {missing}; {remedy}, or leave `compile` out")


def check_strategy(command: str, options: Any) -> None:
    """Refuse a strategy by its description, whether or not what it needs is installed."""
    given = options["trainer"]["strategy"]
    name, arguments = given, dict[str, Any]()
    if not isinstance(given, str):
        name = given["class_path"].rpartition(".")[2]
        for part in ("init_args", "dict_kwargs"):
            arguments |= dict((given.get(part) or {}).items())
    _refuse_strategy([name], arguments)


def check_callbacks(command: str, options: Any) -> None:
    """Refuse callbacks of the section ``trainer`` under which a run can't have two phases."""
    given = options["trainer"]["callbacks"] if command == "fit" else None
    given = given if isinstance(given, list) else [given]
    _refuse_callbacks(resolve_name(callback["class_path"]) for callback in given if callback)


def check_left_out(command: str, options: Any) -> None:
    """Refuse options of the Trainer that would do nothing, or end a run before its end."""
    for name, (default, reason) in _LEFT_OUT.items():
        value = options["trainer"].get(name, default)
        if value != default:
            raise UsageError(f"trainer.{name}={value}; leave it out: {reason}")


def check_ranges(command: str, options: Any) -> None:
    """Refuse a seed that numpy does not take, and numbers that divide by zero, or train nothing."""
    if not 0 <= int(seed := options["seed_everything"]) < 2**32:
        raise UsageError(f"seed_everything={seed}; give a whole number from 0 to 4294967295")
    trainer: Mapping[str, Any] = options["trainer"]
    for name, least in _LEAST.items():
        value = trainer[name]
        if value is not None and not value >= least:
            raise UsageError(f"trainer.{name}={value}; give at least {least}")
    if trainer["gradient_clip_algorithm"] and not trainer["gradient_clip_val"]:
        raise UsageError(
            f"trainer.gradient_clip_algorithm={trainer['gradient_clip_algorithm']} does nothing "
            "without trainer.gradient_clip_val; give that too, or leave it out"
        )
    for split in {"fit": ("train", "val"), "validate": ("val",)}.get(command, (command,)):
        if trainer[f"limit_{split}_batches"] == 0:
            raise UsageError(
                f"trainer.limit_{split}_batches=0 leaves no images for `pcvpt {command}`; leave it "
                "out, or give a number of batches"
            )
