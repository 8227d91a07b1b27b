"""Finished runs in miniature, fitted once for all tests, and the tables that analyses write."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pcvpt import create_model
from pcvpt.cli.analyze.main import main as analyze_main
from pcvpt.cli.analyze.trained_model import TrainedModel
from pcvpt.cli.main import main

# Without those that only show.
CALLBACKS = [
    {"class_path": f"pcvpt.callbacks.{name}"}
    for name in ("RunRecord", "PhaseCheckpoint", "AdapterWriter", "RunSummary")
]
SHORT = (
    *("--config", "demo.yaml", "--condense.method=prune", "--condense.keep=0.3"),
    *("--trainer.accelerator=cpu", "--trainer.limit_train_batches=3"),
    *("--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1"),
    *("--trainer.num_sanity_val_steps=0", "--trainer.check_val_every_n_epoch=1"),
    *("--data.num_workers=0", "--trainer.enable_progress_bar=false"),
    *("--trainer.log_every_n_steps=1", "--trainer.callbacks", json.dumps(CALLBACKS)),
    *("--condense.prompt_epochs=1", "--condense.finetune_epochs=1"),
)
SWIN = "swin_tiny_patch4_window7_224"
SMALL_SWIN = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
Fitted = Callable[..., Path]


class Written(NamedTuple):
    """What an analysis has written to ``folder``."""

    folder: Path

    def files(self) -> set[str]:
        return {file.name for file in self.folder.iterdir()}

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open() as text:
            return list(csv.DictReader(text))


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Return the folder of the run ``name``, fitted with these options at its first use."""
    folder = tmp_path_factory.mktemp("runs")

    def fit(name: str, *options: str) -> Path:
        if not (folder / name).exists():
            main(["fit", *SHORT, *options, "--output_dir", str(folder), "--name", name])
        (run,) = (folder / name).glob("version_*")
        return run

    return fit


@pytest.fixture(scope="session")
def run(fitted: Fitted) -> Path:
    """The demo, condensed from 20 prompts in each of 6 blocks to 36 in all, and fine-tuned."""
    return fitted("demo")


@pytest.fixture(scope="session")
def adapter(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapter of the demo, in a folder without its configuration."""
    folder = tmp_path_factory.mktemp("adapter")
    return Path(shutil.copy(run / "adapter.safetensors", folder / "alone.safetensors"))


@pytest.fixture(scope="session")
def swin_run(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Swin of four blocks in two stages, with 6 prompts each."""
    weights = tmp_path_factory.mktemp("weights") / "swin.safetensors"
    model = create_model(SWIN, 10, 1, pretrained=False, img_size=32, **SMALL_SWIN)
    save_file({k: v for k, v in model.state_dict().items() if "prompts." not in k}, weights)
    kwargs = [f"--model.timm_kwargs.{name}={value}" for name, value in SMALL_SWIN.items()]
    return fitted(
        "swin",
        *("--model.backbone", SWIN, "--model.pretrained", str(weights)),
        *("--model.image_size=32", "--model.num_prompts=6", *kwargs),
    )


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty noisy images of ten classes, as many as the demo's, for training only."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for number in range(20):
        file = folder / "train" / f"class_{number % 10}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture
def accuracy() -> Callable[..., float]:
    """Return the accuracy of a trained model on a split, in percent."""

    def measure(trained: TrainedModel, split: str, images: int | None = None) -> float:
        with torch.no_grad():
            hits = [trained.model(x).argmax(1) == y for x, y in trained.batches(split, images)]
        return 100 * float(torch.cat(hits).double().mean())

    return measure


@pytest.fixture
def analyze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Written]:
    """Run an analysis from an empty folder; return what it has written."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Written:
        results = tmp_path / "results"
        given = [str(argument) for argument in arguments]
        assert analyze_main([*given, "--output", str(results), "--overwrite"]) == 0
        return Written(results)

    return call
