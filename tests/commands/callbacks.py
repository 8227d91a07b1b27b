"""Callbacks of the runs that tests start: harm at a chosen moment, and a record of each process."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

HOOKS = (
    *("on_train_epoch_start", "on_train_batch_start", "on_before_optimizer_step"),
    *("on_validation_batch_start", "on_train_epoch_end", "on_train_end", "on_prompts_masked"),
)


def at(
    moment: str, call: int, action: Callable[..., None], *arguments: Any, rank: int = 0
) -> dict[str, str]:
    """Return the environment of a run in which :class:`Fault` calls ``action``.

    Args:
        moment: A hook of :data:`HOOKS`; "scoring", a forward pass that scores prompts; or
            "os.fsync" and "os.replace NAME", before the system does that, to a file of that name.
        call: Number of the call at which it happens, from 1. 0 for each call.
        action: A function of this module.
        arguments: Arguments of the action.
        rank: Number of the process.
    """
    return {"FAULT": json.dumps([moment, call, action.__name__, arguments, rank])}


class Fault(Callback):
    """Calls the action that the environment variable ``FAULT`` names, see :func:`at`."""

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        moment, self.call, action, arguments, rank = json.loads(
            os.environ.get("FAULT", '["", 0, "send", [], 0]')
        )
        chosen = stage == "fit" and trainer.global_rank == rank
        self.moment, self.calls = moment if chosen else "", 0
        self.action = partial(globals()[action], *arguments)
        if self.moment.startswith("os."):
            self._watch(*self.moment.removeprefix("os.").split())

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        def before(block: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            # Scores by the gate are taken with gradients, but of no parameter.
            if torch.is_grad_enabled() and not any(p.requires_grad for p in pl_module.parameters()):
                self.reached(inputs)

        if self.moment == "scoring":
            pl_module.model.blocks[-1].register_forward_pre_hook(before)

    def reached(self, inputs: Any = None) -> None:
        self.calls += 1
        if self.call in (0, self.calls):
            self.action(inputs)

    def _watch(self, name: str, file: str = "") -> None:
        original = getattr(os, name)

        def watched(*arguments: Any) -> None:
            if not file or Path(arguments[-1]).name == file:
                self.reached()
            original(*arguments)

        setattr(os, name, watched)


def _hook(name: str) -> Callable[..., None]:
    def hook(self: Fault, trainer: pl.Trainer, pl_module: Any, inputs: Any = None, *_: Any) -> None:
        if self.moment == name:
            self.reached(pl_module if name == "on_before_optimizer_step" else inputs)

    return hook


for _name in HOOKS:
    setattr(Fault, _name, _hook(_name))


def send(*arguments: Any) -> None:
    """Send signals to this process."""
    for number in arguments[:-1]:
        os.kill(os.getpid(), number)


def kill(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def send_to_group(number: int, _: Any) -> None:
    """Send a signal to this process and its workers, as a terminal or a scheduler does."""
    group = ["kill", f"-{number}", "--", f"-{os.getpgid(0)}"]
    subprocess.run(group, check=True, start_new_session=True)
    time.sleep(0.5)  # so that workers have died of it, if they do


def kill_group(_: Any) -> None:
    os.killpg(0, signal.SIGKILL)


def kill_workers(_: Any) -> None:
    for worker in multiprocessing.active_children():  # of train, and of val
        worker.kill()


def interrupt_without_readers(_: Any) -> None:
    """Let nobody read the output any more, and send SIGINT, as Ctrl-C also ends a ``tee``."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    os.close(reader)
    os.kill(os.getpid(), signal.SIGINT)


def wait(file: str, _: Any) -> None:
    Path(file).touch()
    signal.pause()


def damage(file: str, _: Any) -> None:
    """Make an image unreadable, and leave its size."""
    Path(file).write_bytes(b"\x89PNG" + bytes(os.path.getsize(file) - 4))


def fill_disk(_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def limit_files(_: Any) -> None:
    """Let no file grow any further: the write itself fails, in the system."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))


def poison_images(batch: Any) -> None:
    batch[0].fill_(float("nan"))


def poison_gradients(pl_module: Any) -> None:
    for parameter in pl_module.parameters():
        if parameter.grad is not None:
            parameter.grad.fill_(float("nan"))


def run_out_of_memory(images: int, inputs: Any) -> None:
    """Fail for more than ``images`` at a time."""
    if len(inputs[0]) > images:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")


class RankRecorder(Callback):
    """Saves what each process ends with as ``rank-0.pt`` and so on in ``folder``."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach() for n, p in pl_module.named_parameters() if p.requires_grad}
        kept = {"keep": pl_module.model.prompts.keep}
        torch.save(trained | kept, self.folder / f"rank-{trainer.global_rank}.pt")
