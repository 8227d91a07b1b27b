"""No step of training or evaluation waits for a number: a GPU would have to finish first."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PhaseRecipe, PromptTuner
from pcvpt.data.samplers import IGNORED

BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 2}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"depths": (1, 1), "embed_dim": 16, "num_heads": (2, 4), "window_size": 4},
    ),
}


class NoWaiting(TorchDispatchMode):
    """Raises at what needs a value on the host: by torch's own tags, and at a few more.

    Tags name what depends on values, such as ``item`` and ``nonzero``. Places by a mask are looked
    up by ``nonzero``, too; a tensor made from numbers is a copy to the device that is waited for.
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

    def _start(self, batch_idx: int) -> None:
        if batch_idx > 0:
            self.context = self.make()
            self.context.__enter__()

    def _end(self) -> None:
        if self.context is not None:
            self.context.__exit__(None, None, None)
            self.context = None
            self.steps += 1

    def on_train_batch_start(self, *args: Any) -> None:
        self._start(args[3])

    def on_train_batch_end(self, *args: Any) -> None:
        self._end()

    def on_validation_batch_start(self, *args: Any) -> None:
        self._start(args[3])

    def on_validation_batch_end(self, *args: Any) -> None:
        self._end()

    def on_exception(self, *args: Any) -> None:
        self._end()


def _tuner(backbone: str, phase: str, **options: Any) -> PromptTuner:
    name, size = BACKBONES[backbone]
    recipe = PhaseRecipe(partial(torch.optim.SGD, momentum=0.9), weight_decay=0.01)
    module = PromptTuner(
        num_classes=3,
        prompt=recipe,
        finetune=recipe,
        backbone=name,
        num_prompts=4,
        prompt_dropout=0.1,
        pretrained=False,
        image_size=32,
        timm_kwargs=size,
        **options,
    )
    if phase == "finetune":
        keep = torch.zeros_like(module.model.prompts.keep)
        keep[0, :3] = True
        module.model.prompts.apply_mask(list(keep))
        module.start_finetuning()
    return module


def _loader(labels: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(len(labels), 3, 32, 32), labels), batch_size=4)


def _fit(folder: Path, module: PromptTuner, context: Callable[[], Any], **options: Any) -> Guard:
    guard = Guard(context)
    trainer = lightning.Trainer(
        callbacks=[guard],
        max_epochs=1,
        logger=CSVLogger(folder),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    padded = torch.tensor([0, 1, 2, 0, 1, 2, IGNORED, IGNORED, *[IGNORED] * 4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, _loader(torch.arange(15) % 3), _loader(padded))
    return guard


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("phase", ["prompt", "finetune"])
def test_no_step_waits(tmp_path: Path, backbone: str, phase: str, mode: str) -> None:
    module = _tuner(backbone, phase, mode=mode)
    guard = _fit(tmp_path, module, NoWaiting, accelerator="cpu")
    assert guard.steps == 3 + 2


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("setting", ["gradient_checkpointing", "pool_prompts"])
def test_no_step_waits_in_other_settings(tmp_path: Path, precision: str, setting: str) -> None:
    module = _tuner("swin", "finetune", **{setting: True})
    guard = _fit(tmp_path, module, NoWaiting, accelerator="cpu", precision=precision)
    assert guard.steps == 3 + 2


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
def test_a_step_that_waited_would_be_caught(
    tmp_path: Path, wait: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _tuner("vit", "prompt")
    step = module.training_step

    def waiting(batch: Any, batch_idx: int) -> Tensor:
        wait(torch.ones(3))
        return step(batch, batch_idx)

    monkeypatch.setattr(module, "training_step", waiting)
    with pytest.raises(AssertionError, match="waits for the device"):
        _fit(tmp_path, module, NoWaiting, accelerator="cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("phase", ["prompt", "finetune"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_step_waits_on_a_gpu(tmp_path: Path, backbone: str, phase: str, precision: str) -> None:
    module = _tuner(backbone, phase)
    options: dict[str, Any] = {"accelerator": "gpu", "devices": 1, "precision": precision}
    guard = _fit(tmp_path, module, _cuda_without_waiting, **options)
    assert guard.steps == 3 + 2
