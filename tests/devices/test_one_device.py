"""On any device: executions agree, a deterministic run repeats and resumes bit for bit, DDP too.

Each test has one body for the CPU and for a GPU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
import torch.nn.functional as F
from factories import SMALL_SWIN, Run, differences, make_tuner
from torch import Tensor

from miniature.backbones import build, images, masked
from pcvpt.callbacks import PhaseCheckpoint

every_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)
ONE = {"keep": 0.5, "prompt_epochs": 1, "finetune_epochs": 2}


@pytest.fixture(autouse=True)
def _settings_of_torch() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


def _trained(device: str, autocast: bool, backbone: str, **options: Any) -> list[Tensor]:
    """Return logits and the gradients of the prompts of one step on ``device``, on the CPU."""
    torch.manual_seed(0)
    model = masked(build(backbone, **options))
    model.to(device).train().zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        logits = model(images(model).to(device)).float()
    F.cross_entropy(logits, torch.arange(3, device=device)).backward()
    gradients = [values.grad for values in model.prompts.parameters()]
    return [part.detach().cpu() for part in (logits, *gradients)]


@every_device
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mode", ["deep", "shallow"])
@pytest.mark.parametrize("backbone", ["class_token", "dinov3", "beit", "swin"])
def test_both_executions_compute_what_the_cpu_computes_in_float32(
    backbone: str, mode: str, autocast: bool, device: str
) -> None:
    options: dict[str, Any] = {"embed_dim": 16} if backbone == "swin" else {}
    expected = _trained("cpu", False, backbone, mode=mode, **options)
    for execution in ("prefix", "tokens"):
        own = {"mode": mode, "execution": execution, **options}
        for found, exact in zip(_trained(device, autocast, backbone, **own), expected, strict=True):
            assert exact.norm() > 0
            assert (found - exact).norm() <= (0.3 if autocast else 1e-4) * exact.norm()


def _fit(folder: Path, device: str, options: dict[str, Any], **trainer: Any) -> Run:
    torch.manual_seed(1)
    at = {"accelerator": device, "devices": 1, "deterministic": True}
    callbacks = [PhaseCheckpoint(every_n_steps=3)]
    module = make_tuner(prompt_dropout=0.3, **options)
    return factories.fit(folder, ONE, module, callbacks=callbacks, **{**at, **trainer})


@every_device
@pytest.mark.parametrize(
    ("options", "precision"),
    [({}, "32-true"), ({}, "bf16-mixed"), (SMALL_SWIN, "32-true"), (SMALL_SWIN, "bf16-mixed")],
)
def test_a_deterministic_run_repeats_and_resumes_bit_for_bit(
    tmp_path: Path, options: dict[str, Any], precision: str, device: str
) -> None:
    one = _fit(tmp_path / "one", device, options, precision=precision)
    two = _fit(tmp_path / "two", device, options, precision=precision)
    assert differences(one.outcome(), two.outcome()) == []
    start = one.checkpoint("prompt-last")
    third = _fit(tmp_path / "three", device, options, precision=precision, ckpt_path=start)
    assert differences(one.outcome(), third.outcome()) == []


@every_device
def test_ddp_on_one_device_computes_what_it_computes_alone(tmp_path: Path, device: str) -> None:
    alone = _fit(tmp_path / "alone", device, {})
    try:
        ddp = _fit(tmp_path / "ddp", device, {}, strategy="ddp")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert differences(alone.outcome(), ddp.outcome()) == []
