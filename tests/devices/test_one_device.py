"""Both executions agree on any device: one body for the CPU and for a GPU."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from miniature.backbones import build, images, masked

every_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)


@pytest.fixture(autouse=True)
def _settings_of_torch() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


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
