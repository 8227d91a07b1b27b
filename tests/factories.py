"""A data module of 40 images in memory, small models, and short runs of them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pcvpt import PhaseRecipe, PromptCondensation, PromptTuner
from pcvpt.data import ImageDataModule, Item, Splits, eval_transform

CLASSES = ("round", "square", "flat", "tall")
LAYERS, PROMPTS, STEPS = 6, 4, 5  # of the demo's backbone, of each layer, of each epoch
SMALL_SWIN: dict[str, Any] = {
    "backbone": "swin_tiny_patch4_window7_224",
    "image_size": 32,
    "pretrained": False,
    "timm_kwargs": {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4},
}


class TinyData(ImageDataModule):
    """Noise about one pattern for each class; val is unbalanced."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"batch_size": 8, "num_workers": 0, **options})

    def read_splits(self) -> Splits:
        rng = np.random.default_rng(0)
        patterns = rng.uniform(60, 200, (len(CLASSES), 8, 8, 3)).repeat(4, 1).repeat(4, 2)

        def draw(labels: list[int]) -> tuple[Item, ...]:
            noise = rng.normal(0, 60, (len(labels), 32, 32, 3))
            pixels = (patterns[labels] + noise).clip(0, 255).astype(np.uint8)
            return tuple(Item(image, label) for image, label in zip(pixels, labels, strict=True))

        return Splits(draw([0, 1, 2, 3] * 10), draw([0] * 9 + [1, 1, 2, 3]), draw([0, 3]), CLASSES)


class TestsOnVal(TinyData):
    """The same, with the images of val in the place of test."""

    def read_splits(self) -> Splits:
        splits = super().read_splits()
        return Splits(splits.train, splits.val, splits.val, splits.class_names)


def recipe(**options: Any) -> PhaseRecipe:
    momentum = partial(torch.optim.SGD, momentum=0.9)
    defaults = {"base_lr": 0.5, "weight_decay": 0.01, "warmup_epochs": 1}
    return PhaseRecipe(**{"optimizer": momentum, **defaults, **options})


class Scripted(PromptTuner):
    """Logs the metric "scripted", whose value in each epoch is given."""

    script: tuple[float, ...]

    def on_validation_epoch_end(self) -> None:
        self.log("scripted", self.script[self.current_epoch])


def scripted(*script: float) -> PromptTuner:
    module: Any = make_tuner(Scripted)
    module.script = script
    return module


def make_tuner(kind: type[PromptTuner] = PromptTuner, **options: Any) -> PromptTuner:
    defaults = {
        "num_classes": len(CLASSES),
        "prompt": recipe(),
        "finetune": recipe(),
        "backbone": "vit_demo_patch8_32",
        "num_prompts": PROMPTS,
        "head_init": "vpt",  # with zeros, an untrained model would give every image the same logits
    }
    return kind(**{**defaults, **options})


def make_trainer(folder: Path, callbacks: Sequence[Callback], **options: Any) -> lightning.Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "accelerator": "cpu",
    }
    return lightning.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), **{**quiet, **options}
    )


class Watch(Callback):
    """Remembers the state of training at the start of each step."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.phases: list[str] = []
        self.rates: list[float] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.momenta: list[int] = []
        self.prompts: list[Tensor] = []
        self.heads: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.epochs.append(trainer.current_epoch)
        self.phases.append(pl_module.phase_name)
        self.optimizers.append(trainer.optimizers[0])
        self.momenta.append(len(trainer.optimizers[0].state))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.prompts.append(pl_module.model.prompts.stack().detach().clone())
        head = pl_module.model.get_classifier()
        self.heads.append(head.weight.detach().clone())


class Run(NamedTuple):
    trainer: lightning.Trainer
    module: PromptTuner
    watch: Watch
    condense: PromptCondensation
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        return self.condense.report

    def checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / f"{name}.ckpt"

    def load(self, name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = torch.load(self.checkpoint(name), weights_only=True)
        return loaded

    def state(self, name: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.load(name)["state_dict"]
        return state

    def checkpoints(self) -> set[str]:
        return {path.stem for path in (self.folder / "checkpoints").iterdir()}

    def outcome(self) -> dict[str, Any]:
        """Return all that a run computes: figures but times, and tensors but running means."""
        entries = [self.report, *self.report.get("budgets", [])]
        kept = [{k: v for k, v in e.items() if "seconds" not in k} for e in entries]
        state = {k: v for k, v in self.module.state_dict().items() if "metrics" not in k}
        return {**kept[0], "budgets": kept[1:], **state}


def fit(
    folder: Path,
    condense: dict[str, Any] | None = None,
    module: PromptTuner | None = None,
    data: ImageDataModule | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Run:
    """Train 1 + 1 epochs of 5 steps unless the options in ``condense`` set other numbers."""
    lightning.seed_everything(seed, verbose=False)
    short = {"prompt_epochs": 1, "finetune_epochs": 1}
    condensation = PromptCondensation(**{**short, **(condense or {})})
    watch, module = Watch(), module or make_tuner()
    trainer = make_trainer(folder, [condensation, watch, *callbacks], **options)
    trainer.fit(module, datamodule=data or TinyData(), ckpt_path=ckpt_path)
    return Run(trainer, module, watch, condensation, folder)


Fit = Callable[..., Run]


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return the names under which two outcomes, or two states, differ in any bit."""
    assert first.keys() == second.keys()
    return [
        name
        for name, value in first.items()
        if not (
            torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        )
    ]


def accuracies(module: PromptTuner) -> tuple[float, float]:
    """Return the accuracy, and the mean of the classes' accuracies, on val in percent."""
    items = TinyData().splits.val
    transform = eval_transform(module.input_spec, "crop")
    images = torch.stack([transform(Image.fromarray(item.source)) for item in items])
    with torch.no_grad():
        guesses = module.model.eval()(images).argmax(1)
    labels = torch.tensor([item.label for item in items])
    hits = (guesses == labels).float()
    classes = torch.stack([hits[labels == label].mean() for label in range(len(CLASSES))])
    return 100 * float(hits.mean()), 100 * float(classes.mean())


class Waits(TorchDispatchMode):
    """Remembers the operations that need a value on the host: a GPU would have to finish first.

    Tags of torch name what depends on values, such as ``item`` and ``nonzero``. An index by a mask
    calls ``nonzero``, too. A tensor made from numbers is copied, and that waits for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, aten = func.overloadpacket, torch.ops.aten
        if packet in (
            *(aten.index, aten.index_put, aten.index_put_),
            *(aten._index_put_impl_, aten._unsafe_index),
        ):
            waits = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        else:
            by_value = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
            waits = packet is aten.lift_fresh or bool(by_value & {*func.tags})
        if waits:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
