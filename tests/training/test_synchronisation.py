"""No step of training or evaluation waits for a number: a GPU would have to finish first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import SMALL_SWIN, Waits, make_trainer, make_tuner
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PromptTuner
from pcvpt.data.samplers import IGNORED

BACKBONES: dict[str, dict[str, Any]] = {"vit": {}, "swin": SMALL_SWIN}
PHASES, MODES = ("prompt", "finetune"), ("deep", "prefix", "shallow")


@contextmanager
def _no_waiting() -> Iterator[None]:
    with Waits() as mode:
        yield
    assert mode.found == []


@contextmanager
def _cuda_without_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Guard(Callback):
    """Runs each step but the first, which looks up the kept prompts, within a context."""

    def __init__(self, context: Callable[[], Any]) -> None:
        self.make, self.context, self.steps = context, None, 0

    def _start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx > 0:
            self.context = self.make()
            self.context.__enter__()

    def _end(self, *args: Any) -> None:
        if self.context is not None:
            context, self.context = self.context, None
            context.__exit__(None, None, None)
            self.steps += 1

    on_train_batch_start = on_validation_batch_start = _start
    on_train_batch_end = on_validation_batch_end = on_exception = _end


def _tuner(backbone: str, phase: str, **options: Any) -> PromptTuner:
    module = make_tuner(**{**BACKBONES[backbone], "prompt_dropout": 0.1, **options})
    if phase == "finetune":
        keep = torch.zeros_like(module.model.prompts.keep)
        keep[0, :3] = True
        module.model.prompts.apply_mask(list(keep))
        module.on_fit_start = module.start_finetuning  # type: ignore[method-assign]
    return module


def _loader(labels: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(len(labels), 3, 32, 32), labels), batch_size=4)


def _require_no_waiting(
    folder: Path, module: PromptTuner, context: Callable[[], Any] = _no_waiting, **options: Any
) -> None:
    guard = Guard(context)
    trainer = make_trainer(folder, [guard], max_epochs=1, logger=CSVLogger(folder), **options)
    padded = torch.tensor([0, 1, 2, 0, 1, 2, *[IGNORED] * 6])
    trainer.fit(module, _loader(torch.arange(15) % 3), _loader(padded))
    assert guard.steps == 3 + 2


@pytest.mark.parametrize(
    ("backbone", "phase", "options", "precision"),
    [
        *((b, p, {"mode": m}, "32-true") for b in BACKBONES for p in PHASES for m in MODES),
        ("swin", "finetune", {"gradient_checkpointing": True}, "bf16-mixed"),
        ("swin", "finetune", {"pool_prompts": True}, "bf16-mixed"),
    ],
)
def test_no_step_waits(
    tmp_path: Path, backbone: str, phase: str, options: dict[str, Any], precision: str
) -> None:
    _require_no_waiting(tmp_path, _tuner(backbone, phase, **options), precision=precision)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: int(x[0]),
        lambda x: x if x.any() else None,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.masked_fill_(x > 0, 0).index_put_((x > 0,), torch.zeros_like(x[:1])),
        lambda x: torch.bincount(x.long()),
        lambda x: torch.tensor(0.1) * x,
        lambda x: x.equal(x),
    ],
)
def test_what_waits_is_found(wait: Callable[[Tensor], Any]) -> None:
    x = torch.ones(3)
    with Waits() as mode:
        wait(x)
    assert mode.found


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_on_a_gpu(tmp_path: Path, backbone: str, phase: str, precision: str) -> None:
    options: dict[str, Any] = {"accelerator": "gpu", "devices": 1, "precision": precision}
    _require_no_waiting(tmp_path, _tuner(backbone, phase), _cuda_without_waiting, **options)
