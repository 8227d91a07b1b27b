"""Scores are the same when memory makes them be computed in pieces."""

import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt.condensation import score_prompts
from pcvpt.condensation.microbatches import PiecewiseSum
from pcvpt.errors import UsageError
from pcvpt.models import PromptedVisionTransformer

Data = tuple[Tensor, Tensor]
METHODS = ("gate_sample", "token", "attention", "leave_one_out")  # one of each way to compute
WITH_GRADIENTS = ("gate_sample", "token")
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it"),
    "cpu": RuntimeError("[alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: Error 12"),
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 b"),
    "driver": RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    "outside": RuntimeError("CUDA ran out of memory outside PyTorch's allocator."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cudnn 9": RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    "numpy": MemoryError("Unable to allocate 7 GiB for an array"),
}


class _Costly(torch.autograd.Function):
    """The identity, whose backward pass fails for more than ``limit`` images."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, limit: int, error: Exception) -> Tensor:
        ctx.limit, ctx.error = limit, error
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if len(gradient) > ctx.limit:
            raise ctx.error
        return gradient, None, None


def _limit(
    model: PromptedVisionTransformer, limit: int, error: Exception, backward: bool = False
) -> list[int]:
    """Let more than ``limit`` images fail in the last block; return the sizes that come there."""
    sizes: list[int] = []

    def check(block: Any, args: tuple[Any, ...]) -> Any:
        sizes.append(len(args[0]))
        if backward:
            return (_Costly.apply(args[0], limit, error), *args[1:])
        if len(args[0]) > limit:
            raise error
        return None

    model.blocks[-1].register_forward_pre_hook(check)
    return sizes


def _scores(model: PromptedVisionTransformer, batches: Any, method: Any) -> Tensor:
    return torch.stack(score_prompts(model, batches, method))


def _batches(data: Data) -> list[Data]:
    return [data, (data[0].flip(0)[:5], data[1].flip(0)[:5])]


@pytest.mark.parametrize("method", METHODS)
def test_scores_in_pieces_are_those_of_whole_batches(build: Any, data: Data, method: str) -> None:
    model, backward = build().double(), method in WITH_GRADIENTS  # "token" is nearly cancelled
    batches = _batches((data[0].double(), data[1]))
    whole = _scores(model, batches, method)
    _limit(model, 2, ERRORS["cpu" if backward else "cuda"], backward)
    with pytest.warns(UserWarning, match="memory for 6 images") as warned:
        pieces = _scores(model, batches, method)
    assert len(warned) == 1
    assert whole.abs().max() > 0
    # Losses and gates are in single precision even here.
    tolerance = 1e-9 if method == "token" else 1e-5
    assert (pieces - whole).abs().max() <= tolerance * whole.abs().max()


@pytest.mark.parametrize("where", ERRORS)
def test_the_size_is_halved_until_it_fits_and_is_not_raised_again(
    build: Any, data: Data, where: str
) -> None:
    model = build()
    sizes = _limit(model, 2, ERRORS[where])
    with pytest.warns(UserWarning, match=r"memory for 6 images .* takes 2$") as said:
        _scores(model, _batches(data), "gate")
    assert sizes == [6, 3, 2, 2, 2, 2, 2, 1]
    assert len(said) == 1


def test_images_that_were_summed_are_not_computed_again() -> None:
    seen: list[float] = []
    spare = [3, 2]  # how many images fit, at the first calls; later two

    def piece(images: Tensor, labels: Tensor) -> Tensor:
        if len(images) > (spare.pop(0) if spare else 2):
            raise ERRORS["cuda"]
        seen.extend(images.tolist())
        return images.sum()

    total = PiecewiseSum(piece)
    total.size = 3
    with pytest.warns(UserWarning, match="memory for 3 images"):
        assert total(torch.arange(8.0), torch.zeros(8)) == 28
    assert seen == list(range(8))


def test_nothing_of_what_failed_is_held_while_less_is_tried() -> None:
    held: list[weakref.ref[Tensor]] = []

    def piece(images: Tensor, labels: Tensor) -> Tensor:
        assert all(ref() is None for ref in held)
        graph = (images * torch.ones(1, requires_grad=True)).exp()
        held.append(weakref.ref(graph))
        if len(images) > 1:
            raise torch.OutOfMemoryError  # not one of those above, which keep their traceback
        return graph.sum()

    with pytest.warns(UserWarning, match="memory for 4 images"):
        total = PiecewiseSum(piece)(torch.zeros(4), torch.zeros(4))
    assert total.dtype == torch.float64
    assert total == 4
    assert len(held) == 6  # of 4, of 2, and each of four


@pytest.mark.parametrize("method", WITH_GRADIENTS)
def test_one_image_that_does_not_fit_is_an_error_with_a_remedy(
    build: Any, data: Data, method: Any
) -> None:
    model = build().train()
    sizes = _limit(model, 0, ERRORS["cuda"])
    with pytest.raises(UsageError, match=r"one image .*2\.00 GiB.*gradient_checkpointing"):
        _scores(model, [data], method)
    assert sizes == [6, 3, 2, 1]
    assert model.training


def test_another_error_is_not_tried_again(build: Any, data: Data) -> None:
    model = build()
    sizes = _limit(model, 0, RuntimeError("illegal memory access"))
    with pytest.raises(RuntimeError, match="illegal"):
        _scores(model, [data], "gate")
    assert sizes == [6]


LIMITED = """
import resource, sys
import torch
from pcvpt import create_model, score_prompts

torch.manual_seed(0)
torch.backends.mkldnn.enabled = False  # it has an allocator of its own
model = create_model("vit_demo_patch8_32", 10, 8, head_init="vpt")
images, labels = torch.randn(768, 3, 32, 32), torch.randint(10, (768,))
batches = list(zip(images.split(64), labels.split(64)))
in_parts = torch.stack(score_prompts(model, batches, "gate"))
now = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + 100 * 2**20, -1))
at_once = torch.stack(score_prompts(model, [(images, labels)], "gate"))
print(float((at_once - in_parts).abs().max() / in_parts.abs().max()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space")
def test_a_process_without_memory_for_its_batch_scores_it_in_pieces() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "scoring: not enough memory for 768 images at a time" in done.stderr
    assert float(done.stdout) < 1e-3
