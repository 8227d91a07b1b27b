"""Callbacks that tests add to runs on several processes, which can't be reached otherwise."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from pcvpt import PromptTuner


class RankRecorder(Callback):
    """Saves what each process ends with, as ``rank-0.pt`` and so on in ``folder``."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_end(self, trainer: pl.Trainer, pl_module: PromptTuner) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach() for n, p in pl_module.named_parameters() if p.requires_grad}
        kept = {"keep": pl_module.model.prompts.keep}
        torch.save(trained | kept, self.folder / f"rank-{trainer.global_rank}.pt")


class Signalled(Callback):
    """Sends a signal to process ``rank`` itself at the start of a step, counted from 1."""

    def __init__(self, rank: int, number: int, step: int) -> None:
        self.rank, self.number, self.step = rank, number, step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: PromptTuner, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == self.rank and trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.Signals(self.number))


class ShortOfMemory(Callback):
    """Lets scoring fail on process ``rank`` for more than ``images`` at a time."""

    def __init__(self, rank: int, images: int) -> None:
        self.rank, self.images = rank, images

    def on_fit_start(self, trainer: pl.Trainer, pl_module: PromptTuner) -> None:
        def check(block: torch.nn.Module, args: tuple[Any, ...]) -> None:
            # Scores by the gate are taken with gradients, but of no parameter.
            trained = any(p.requires_grad for p in pl_module.parameters())
            scoring = torch.is_grad_enabled() and not trained
            if scoring and len(args[0]) > self.images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

        if trainer.global_rank == self.rank:
            pl_module.model.blocks[-1].register_forward_pre_hook(check)
