"""The list of checks that every run goes through, before anything is made."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from pcvpt.cli.loggers import check_names
from pcvpt.cli.parser import data_of
from pcvpt.data import BenchmarkDataModule
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import check_output
from pcvpt.runs.environment import unusable_gpu
from pcvpt.runs.folder import read_checkpoint, read_json, tests_of
from pcvpt.training.preflight import (
    check_callbacks,
    check_left_out,
    check_ranges,
    check_strategy,
    require_compiler,
)


def folder_of_runs(options: Any) -> Path:
    """Return the folder of all runs with the name in ``options``."""
    return Path(options.output_dir).expanduser() / (options.name or "run")


def check_gpu(command: str, options: Any) -> None:
    """Refuse, or tell of, a GPU that torch can't use, so that the CPU is not taken silently."""
    accelerator = options.trainer.accelerator
    reason = unusable_gpu() if accelerator in ("auto", "gpu", "cuda") else None
    if reason is None:
        return
    remedy = (
        f"this machine has a GPU, but {reason}; update the driver, or install a torch for it "
        "(https://pytorch.org), or choose the CPU by --trainer.accelerator=cpu"
    )
    if accelerator != "auto" or torch.cuda.device_count():  # which Lightning takes for usable
        raise UsageError(f"trainer.accelerator={accelerator}: {remedy}")
    rank_zero_warn(f"this run takes the CPU: {remedy}")


def check_compiler(command: str, options: Any) -> None:
    """Refuse to compile a model without the compiler of the device."""
    if options.model.compile:
        gpu = options.trainer.accelerator != "cpu" and torch.cuda.is_available()
        require_compiler("cuda" if gpu else "cpu", options.model.compile)


def check_precision(command: str, options: Any) -> None:
    """Refuse a precision that replaces layers of the backbone."""
    precision = str(options["trainer"]["precision"])
    if precision.startswith("transformer-engine"):
        raise UsageError(
            f"trainer.precision={precision}: it replaces the layers of the backbone, whose weights "
            "prompts need in parts; take bf16-mixed or bf16-true"
        )


def check_data(command: str, options: Any) -> None:
    """Refuse a run without data."""
    if options.data is None:
        raise UsageError("data is not given; add it to a config, or give --data")


def check_checkpoint(command: str, options: Any) -> None:
    """Refuse a checkpoint that can't be read, and a test or a prediction without one."""
    if options.ckpt_path is not None:
        read_checkpoint(Path(options.ckpt_path))
    elif command != "fit":
        raise UsageError(f"`pcvpt {command}` needs a model: give a run's folder, or --ckpt_path")


def check_predictions(command: str, options: Any) -> None:
    """Refuse to overwrite predictions."""
    if command == "predict" and os.path.isfile(os.path.expanduser(options.predictions)):
        raise UsageError(f"{options.predictions} exists; give another file by --predictions")


def check_first_test(command: str, options: Any) -> None:
    """Refuse to test a checkpoint twice, but for ``--retest``."""
    earlier = tests_of(Path(options.ckpt_path)) if command == "test" else []
    if earlier and not options.retest:
        accuracy = read_json(earlier[-1]).get("test/accuracy", float("nan"))
        raise UsageError(
            f"{options.ckpt_path} was tested already: {100 * accuracy:.2f} % ({earlier[-1]}). "
            "Repeated tests bias the result; --retest tests once more and keeps both results"
        )


def check_resume(command: str, options: Any) -> None:
    """Refuse ``--resume`` and ``--retest`` together with what they can't go with."""
    for option, owner in (("resume", "fit"), ("retest", "test")):
        if options[option] and command != owner:
            raise UsageError(f"--{option} is an option of `pcvpt {owner}` alone; leave it out")
    if options.resume and options.ckpt_path is not None:
        raise UsageError("--resume finds the checkpoint by itself; leave out --ckpt_path")


def check_output_folder(command: str, options: Any) -> None:
    """Refuse a run folder that can't be written to."""
    if command == "fit":
        check_output(folder_of_runs(options))


def check_task(command: str, options: Any) -> None:
    """Refuse a task whose images are not on disk, before the backbone's weights are downloaded."""
    if command == "predict":  # the images may be the user's own
        return
    data = data_of(options.data)
    if isinstance(data, BenchmarkDataModule):
        _ = data.found


CHECKS = (
    check_data,
    check_checkpoint,
    check_strategy,
    check_precision,
    check_callbacks,
    check_left_out,
    check_ranges,
    check_gpu,
    check_compiler,
    check_predictions,
    check_first_test,
    check_resume,
    check_names,
    check_output_folder,
)
"""Each check by (name of the command, its options); the first that refuses ends the command."""
