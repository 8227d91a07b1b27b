"""Runs of the command on several processes of this machine, by gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.cli.main import main

TESTS = Path(__file__).parents[1]
LIMIT = 150  # seconds, of a run that takes about ten
COMMON = """
trainer:
  accelerator: cpu
  check_val_every_n_epoch: 1
  limit_train_batches: 4
  limit_val_batches: 2
  num_sanity_val_steps: 0
  enable_model_summary: false
  enable_progress_bar: false
data:
  init_args: {augment: true, num_workers: 0}
condense: {keep: 0.3, prompt_epochs: 2, finetune_epochs: 1}
model:
  num_prompts: 6
  prompt_dropout: 0.0
  prompt: &recipe
    optimizer: {class_path: torch.optim.SGD, init_args: {momentum: 0.9}}
    base_lr: 0.5
    weight_decay: 0.01
    warmup_epochs: 1
  finetune: *recipe
"""
ADAMW = """
model:
  prompt: &recipe
    optimizer: {class_path: torch.optim.AdamW}
    base_lr: 0.02
    weight_decay: 0.01
    warmup_epochs: 1
  finetune: *recipe
"""
VIT = """
model:
  backbone: vit_tiny_patch16_224
  pretrained: false
  image_size: 32
  timm_kwargs: {depth: 4, embed_dim: 24, num_heads: 2, patch_size: 8}
"""
SWIN = """
model:
  backbone: swin_tiny_patch4_window7_224
  pretrained: false
  image_size: 32
  timm_kwargs: {embed_dim: 12, depths: [2, 2], num_heads: [2, 4], window_size: 4}
"""
IMPATIENT = """
trainer:
  strategy:
    class_path: lightning.pytorch.strategies.DDPStrategy
    init_args: {timeout: "0:00:15"}
"""
CONFIGS = {"common": COMMON, "adamw": ADAMW, "vit": VIT, "swin": SWIN, "impatient": IMPATIENT}
DDP = ("--trainer.strategy=ddp", "--trainer.devices=2")


class Runs:
    """Starts runs within ``folder`` and looks at what they leave there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in CONFIGS.items():
            (folder / f"{name}.yaml").write_text(text)

    def arguments(self, name: str, configs: Sequence[str] = (), *options: str) -> list[str]:
        """Return the arguments of ``pcvpt`` for a run whose processes are recorded."""
        files = [str(self.folder / f"{config}.yaml") for config in ("common", *configs)]
        return [
            *("fit", "--config", "demo.yaml"),
            *(part for file in files for part in ("--config", file)),
            *("--output_dir", str(self.folder), "--name", name, *options),
            *("--trainer.callbacks+", "devices.ranks.RankRecorder"),
            *("--trainer.callbacks.folder", str(self.folder / name / "ranks")),
        ]

    def start(
        self, arguments: Sequence[str], *launcher: str, **environment: str
    ) -> subprocess.Popen[str]:
        """Start the command, or ``launcher`` with it, as a process of its own."""
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "pcvpt", *arguments],
            env={
                **{**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # all its processes can be ended together
        )

    def finish(self, arguments: Sequence[str], expected: int | None = 0) -> tuple[str, str]:
        """Run the command in processes of its own, and return what it wrote."""
        return ended(self.start(arguments), expected)

    def here(self, arguments: Sequence[str]) -> None:
        """Run the command in this process."""
        main(list(arguments))

    def ranks(self, name: str, number: int) -> list[dict[str, Tensor]]:
        """Return what each of so many processes has ended with."""
        files = sorted((self.folder / name / "ranks").iterdir())
        assert [file.name for file in files] == [f"rank-{rank}.pt" for rank in range(number)]
        return [torch.load(file, weights_only=True) for file in files]

    def only_folder(self, name: str) -> Path:
        """Return the run folder of ``name``, of which there must be one."""
        (run,) = (path for path in (self.folder / name).iterdir() if path.name != "ranks")
        return run

    def results(self, name: str) -> dict[str, Any]:
        """Return the figures of the run ``name``, but for times."""
        results = json.loads((self.only_folder(name) / "results.json").read_text())
        return {key: value for key, value in results.items() if "seconds" not in key}


def ended(process: subprocess.Popen[str], expected: int | None = 0) -> tuple[str, str]:
    """Wait for the end of ``process`` and return what it wrote; kill it when it hangs.

    Args:
        process: from :meth:`Runs.start`.
        expected: its status; None for any but 0.
    """
    try:
        # It comes back only when no process of the run holds the output any more.
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"a run hangs: {out}\n{err}")
    assert (process.returncode != 0) if expected is None else process.returncode == expected, err
    return out, err


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """Compare what was trained and kept; to what sums in another order may differ by."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-5, rtol=0, equal_nan=True)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)
