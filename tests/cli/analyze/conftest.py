"""Finished runs in miniature, made once, and copies of them that a test may write to."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from pcvpt import create_model
from pcvpt.cli.main import main

SHORT = (
    *("--config", "demo.yaml", "--trainer.accelerator=cpu", "--trainer.limit_train_batches=3"),
    *(
        "--trainer.limit_val_batches=1",
        "--trainer.limit_test_batches=1",
        "--trainer.num_sanity_val_steps=0",
    ),
    *("--trainer.check_val_every_n_epoch=1", "--data.num_workers=0"),
    *("--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1"),
    *("--condense.prompt_epochs=1", "--condense.finetune_epochs=1"),
)
SWIN = "swin_tiny_patch4_window7_224"
SMALL_SWIN = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
Fitted = Callable[..., Path]


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Return the folder of the run ``name``, fitted with these options when first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def fit(name: str = "demo", *options: str) -> Path:
        if not (folder / name).exists():
            main(["fit", *SHORT, *options, "--output_dir", str(folder), "--name", name])
        (run,) = (folder / name).glob("version_*")
        return run

    return fit


@pytest.fixture(scope="session")
def finished(fitted: Fitted) -> Path:
    """The demo, condensed from 20 prompts in each of 6 blocks to 36 in all, and fine-tuned."""
    return fitted()


@pytest.fixture(scope="session")
def finished_swin(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Twenty noisy images of ten classes, as many as the demo's, for training only."""
    rng = np.random.default_rng(0)
    for number in range(20):
        file = tmp_path / "images" / "train" / f"class_{number % 10}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished demo to write to, and an empty working folder."""
    return copied(finished, tmp_path, monkeypatch)


@pytest.fixture
def swin_run(finished_swin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished Swin to write to, and an empty working folder."""
    return copied(finished_swin, tmp_path, monkeypatch)


def copied(finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "work").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "work")
    return Path(shutil.copytree(finished, folder / finished.parent.name / finished.name))
