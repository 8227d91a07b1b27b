"""A task of 40 images in memory, and short runs on it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from PIL import Image
from torch import Tensor

from pcvpt import PhaseRecipe, PromptCondensation, PromptTuner
from pcvpt.data import ImageDataModule, Item, Splits, eval_transform

CLASSES = ("round", "square", "flat", "tall")
LAYERS, PROMPTS, STEPS = 6, 4, 5  # of the demo's backbone, of every model here, of an epoch


class TinyTask(ImageDataModule):
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


def make_tuner(**options: Any) -> PromptTuner:
    sgd = partial(torch.optim.SGD, momentum=0.9)
    recipe = PhaseRecipe(sgd, base_lr=0.5, weight_decay=0.01, warmup_epochs=1)
    defaults = {
        "num_classes": len(CLASSES),
        "prompt": recipe,
        "finetune": recipe,
        "backbone": "vit_demo_patch8_32",
        "num_prompts": PROMPTS,
    }
    return PromptTuner(**{**defaults, **options})


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

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: PromptTuner, *_: Any
    ) -> None:
        self.epochs.append(trainer.current_epoch)
        self.phases.append(pl_module.phase_name)
        self.optimizers.append(trainer.optimizers[0])
        self.momenta.append(len(trainer.optimizers[0].state))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.prompts.append(pl_module.model.prompts.stack().detach().clone())
        self.heads.append(pl_module.model.get_classifier().weight.detach().clone())


def make_trainer(folder: Path, callbacks: Sequence[Callback], **options: Any) -> lightning.Trainer:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
    }
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{**quiet, **options},
    )


@pytest.fixture
def tuner() -> Callable[..., PromptTuner]:
    return make_tuner


@pytest.fixture
def task() -> type[TinyTask]:
    return TinyTask


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., lightning.Trainer]:
    return partial(make_trainer, tmp_path)


Fit = Callable[..., tuple[lightning.Trainer, PromptTuner, Watch]]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Train 2 + 2 epochs of 5 steps unless ``condense`` says otherwise; return what was used."""

    def run(
        condense: PromptCondensation | None = None,
        module: PromptTuner | None = None,
        data: ImageDataModule | None = None,
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        ckpt_path: Path | None = None,
        folder: Path = tmp_path,
        **options: Any,
    ) -> tuple[lightning.Trainer, PromptTuner, Watch]:
        lightning.seed_everything(seed, verbose=False)
        condense = condense or PromptCondensation(prompt_epochs=2, finetune_epochs=2)
        watch = Watch()
        used = make_trainer(folder, [condense, watch, *callbacks], **options)
        module = module or make_tuner()
        used.fit(module, datamodule=data or TinyTask(), ckpt_path=ckpt_path)
        return used, module, watch

    return run


@pytest.fixture
def evaluate() -> Callable[..., tuple[float, float]]:
    """Return the accuracy and the mean of the classes' accuracies on val, in percent, by hand."""

    def by_hand(module: PromptTuner) -> tuple[float, float]:
        items = TinyTask().splits.val
        transform = eval_transform(module.input_spec, "crop")
        images = torch.stack([transform(Image.fromarray(item.source)) for item in items])
        with torch.no_grad():
            chosen = module.model.eval()(images).argmax(1).tolist()
        hits = [guess == item.label for guess, item in zip(chosen, items, strict=True)]
        labels = [item.label for item in items]
        classes = [
            np.mean([hit for hit, of in zip(hits, labels, strict=True) if of == label])
            for label in range(len(CLASSES))
        ]
        return 100 * sum(hits) / len(hits), 100 * float(np.mean(classes))

    return by_hand
