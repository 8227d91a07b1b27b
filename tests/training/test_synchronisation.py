"""No step of training or evaluation waits for a number: a GPU would have to finish first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import SMALL_SWIN, make_trainer, make_tuner
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PromptTuner
from pcvpt.data.samplers import IGNORED

BACKBONES: dict[str, dict[str, Any]] = {"vit": {}, "swin": SMALL_SWIN}


class NoWaiting(TorchDispatchMode):
    """Raises at operations that need a value on the host: by torch's own tags, and a few more.

    Tags name what depends on values, such as ``item`` and ``nonzero``. An index by a mask calls
    ``nonzero``, too. A tensor made from numbers is copied, and that waits for the device.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indexing = func.overloadpacket in (
            *(torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_),
            *(torch.ops.aten._index_put_impl_, torch.ops.aten._unsafe_index),
        )
        if indexing:
            waits = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        else:
            waits = func.overloadpacket is torch.ops.aten.lift_fresh or bool(
                {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*func.tags}
            )
        if waits:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


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
            self.context.__exit__(None, None, None)
            self.context = None
            self.steps += 1

    on_train_batch_start = on_validation_batch_start = _start
    on_train_batch_end = on_validation_batch_end = on_exception = _end


class Waiting(PromptTuner):
    wait: Callable[[Tensor], Any]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.wait(torch.ones(3))
        return super().training_step(batch, batch_idx)


def _tuner(backbone: str, phase: str, **options: Any) -> PromptTuner:
    module = make_tuner(**{**BACKBONES[backbone], "prompt_dropout": 0.1, **options})
    if phase == "finetune":
        keep = torch.zeros_like(module.model.prompts.keep)
        keep[0, :3] = True
        module.model.prompts.apply_mask(list(keep))
        module.start_finetuning()
    return module


def _loader(labels: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(len(labels), 3, 32, 32), labels), batch_size=4)


def _require_no_waiting(
    folder: Path, module: PromptTuner, context: Callable[[], Any] = NoWaiting, **options: Any
) -> None:
    guard = Guard(context)
    trainer = make_trainer(folder, [guard], max_epochs=1, logger=CSVLogger(folder), **options)
    padded = torch.tensor([0, 1, 2, 0, 1, 2, *[IGNORED] * 6])
    trainer.fit(module, _loader(torch.arange(15) % 3), _loader(padded))
    assert guard.steps == 3 + 2


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("phase", ["prompt", "finetune"])
def test_no_step_waits(tmp_path: Path, backbone: str, phase: str, mode: str) -> None:
    _require_no_waiting(tmp_path, _tuner(backbone, phase, mode=mode))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("setting", ["gradient_checkpointing", "pool_prompts"])
def test_no_step_waits_in_other_settings(tmp_path: Path, precision: str, setting: str) -> None:
    module = _tuner("swin", "finetune", **{setting: True})
    _require_no_waiting(tmp_path, module, precision=precision)


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
def test_a_step_that_waited_would_be_caught(tmp_path: Path, wait: Callable[[Tensor], Any]) -> None:
    module = make_tuner(Waiting)
    module.wait = wait
    with pytest.raises(AssertionError, match="waits for the device"):
        _require_no_waiting(tmp_path, module)


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("phase", ["prompt", "finetune"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_on_a_gpu(tmp_path: Path, backbone: str, phase: str, precision: str) -> None:
    options: dict[str, Any] = {"accelerator": "gpu", "devices": 1, "precision": precision}
    _require_no_waiting(tmp_path, _tuner(backbone, phase), _cuda_without_waiting, **options)
