"""Two processes that are killed, or asked to end, go on as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import CONFIG, OFTEN, flat

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]
LIMIT = 120


class Pair:
    """A run on two processes of the CPU."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        (folder / "run.yaml").write_text(CONFIG)
        (folder / "often.yaml").write_text(OFTEN)

    def start(self) -> subprocess.Popen[str]:
        """Start it, or go on with it, in a process group of its own."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "pcvpt", "fit", "--config", "demo.yaml", "--resume"),
                *("--config", str(self.folder / "run.yaml")),
                *("--config", str(self.folder / "often.yaml")),
                *("--output_dir", str(self.folder), "--name", self.name),
                *("--trainer.strategy=ddp", "--trainer.devices=2", "--data.batch_size=4"),
                "--trainer.log_every_n_steps=2",
            ],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> None:
        """Run it to its end."""
        process = self.start()
        said, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, said

    def wait_for(self, stage: str) -> None:
        """Wait until there is a checkpoint."""
        file = self.folder / self.name / "version_0" / "checkpoints" / f"{stage}.ckpt"
        end = time.monotonic() + LIMIT
        while not file.exists():
            assert time.monotonic() < end, f"no {file}"
            time.sleep(0.02)

    def outcome(self) -> dict[str, Any]:
        """Return the weights it ends with."""
        folder = self.folder / self.name / "version_0" / "checkpoints"
        saved = torch.load(folder / "finetune_0.3-last.ckpt", weights_only=True)
        return flat(saved["state_dict"], "state")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pair = Pair(tmp_path_factory.mktemp("whole"), "whole")
    pair.finish()
    return pair.outcome()


def _check_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(two[name])), name


@pytest.mark.parametrize("stage", ["prompt-last", "masked_0.5", "finetune_0.5-last"])
def test_two_processes_that_are_killed_go_on(
    tmp_path: Path, whole: dict[str, Any], stage: str
) -> None:
    pair = Pair(tmp_path, "killed")
    process = pair.start()
    pair.wait_for(stage)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    assert not (tmp_path / "killed" / "version_0" / "results.json").exists()
    pair.finish()
    _check_same(whole, pair.outcome())


@pytest.mark.parametrize("to", ["all", "the first"])
def test_two_processes_that_are_asked_to_end_save_together(
    tmp_path: Path, whole: dict[str, Any], to: str
) -> None:
    pair = Pair(tmp_path, "asked")
    process = pair.start()
    pair.wait_for("prompt-last")
    if to == "all":
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 143, said
    assert said.count("Saved; the same command with --resume continues from here.") == 1
    assert "Traceback" not in said, said
    pair.finish()
    _check_same(whole, pair.outcome())
