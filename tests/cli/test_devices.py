"""Which device a run takes, and how exactly it computes there: said before long work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt.cli import checks
from pcvpt.cli.parser import build_parser
from pcvpt.runs import environment

from .conftest import SMALL, Command, Refusal

FIT = ("fit", "--config", "demo.yaml")


def test_one_device_is_the_default() -> None:
    assert build_parser().get_defaults().trainer.devices == 1


def test_the_precision_of_products_is_set_and_recorded(command: Command, work: Path) -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        for precision, tf32 in (("high", True), ("highest", False)):
            fit = (*FIT, *SMALL, "--condense.keep=null", f"--matmul_precision={precision}")
            ended = command(*fit, "--output_dir", work / precision)
            assert ended.status == 0, ended.output
            (file,) = (work / precision).rglob("environment.json")
            assert json.loads(file.read_text())["starts"][0]["matmul_precision"] == precision
            assert torch.backends.cudnn.allow_tf32 is tf32
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = before


def _driver(monkeypatch: pytest.MonkeyPatch, version: int | None, card: bool = True) -> None:
    """Let the driver support CUDA ``version``, such as 12020; None for no driver."""

    def load(name: str) -> Any:
        if version is None:
            raise OSError(name)

        class Driver:
            @staticmethod
            def cuDriverGetVersion(found: Any) -> None:
                found._obj.value = version

        return Driver

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(environment.ctypes, "CDLL", load)
    cards = [Path("/dev/nvidia0")] if card else []
    monkeypatch.setattr(environment.Path, "glob", lambda *_: iter(cards))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_driver_that_is_too_old_for_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(monkeypatch, 12020)
    told = environment.unusable_gpu()
    assert told is not None
    assert "needs CUDA 13.0" in told
    assert "has CUDA 12.2" in told
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in str(environment.unusable_gpu())
    _driver(monkeypatch, 13010)
    assert "is_available" in str(environment.unusable_gpu())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert environment.unusable_gpu() is None


def test_nothing_is_said_where_there_is_no_gpu_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(monkeypatch, None)
    assert environment.unusable_gpu() is None
    _driver(monkeypatch, 12020, card=False)
    assert environment.unusable_gpu() is None
    _driver(monkeypatch, 12020)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment.unusable_gpu() is None


@pytest.mark.parametrize(("accelerator", "found"), [("gpu", 0), ("auto", 1)])
def test_a_gpu_that_cannot_be_used_is_refused_with_a_remedy(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, accelerator: str, found: int, work: Path
) -> None:
    monkeypatch.setattr(checks, "unusable_gpu", lambda: "its driver is too old")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    told = refusal(*FIT, f"--trainer.accelerator={accelerator}")
    assert told.startswith(f"trainer.accelerator={accelerator}: ")
    assert "its driver is too old" in told
    assert "--trainer.accelerator=cpu" in told


def test_a_run_that_takes_the_cpu_in_place_of_a_gpu_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "unusable_gpu", lambda: "its driver is too old")
    options = build_parser().get_defaults()
    with pytest.warns(UserWarning, match="takes the CPU.*its driver is too old.*accelerator=cpu"):
        checks.check_gpu("fit", options)
    options.trainer.accelerator = "cpu"
    checks.check_gpu("fit", options)


def test_processes_that_would_each_run_alone_are_refused(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    told = refusal(*FIT, *SMALL)
    assert "srun has started 4 processes" in told
    assert "trainer.devices" in told


def test_a_precision_that_replaces_layers_is_refused(refusal: Refusal, work: Path) -> None:
    told = refusal(*FIT, "--trainer.precision=transformer-engine")
    assert told.startswith("trainer.precision=transformer-engine: ")
