"""Attention on a GPU: by which kernel, in which precision, and with the results of the CPU.

Where there is no GPU, a fake one computes shapes and types, without contents and without backward.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from miniature.backbones import WAYS, build, images, masked
from pcvpt.condensation import merge_prompts

from .fake import fake_cuda

FAMILIES: dict[str, dict[str, Any]] = {
    "class_token": {},
    "dinov3": {},
    "beit_shared_bias": {},
    "swin_pooled_padded": {"embed_dim": 16},  # heads of 8: kernels take multiples of 16 bytes
    "eva02_inner_norm": {},
    "beit": {},
    "swin": {"embed_dim": 16},
}
WITHOUT_BIAS = ("class_token", "dinov3", "eva02_inner_norm")
# Precision of the backbone, of the prompts, and of autocast.
PRECISIONS = {
    "32-true": (torch.float32, torch.float32, None),
    "bf16-mixed": (torch.float32, torch.float32, torch.bfloat16),
    "bf16 backbone": (torch.bfloat16, torch.float32, torch.bfloat16),
    "bf16 backbone, scored": (torch.bfloat16, torch.float32, None),
    "bf16-true": (torch.bfloat16, torch.bfloat16, None),
    "16-true": (torch.float16, torch.float16, None),
}
FLASH, EFFICIENT, MATH = "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"
Call = Callable[[tuple[Tensor, ...], Tensor | None], Tensor | None]


def _first(rows: dict[str, Any], number: int) -> list[Any]:
    """Return the rows of a table, those after the first ``number`` as slow cases."""
    slow = (pytest.param(name, marks=pytest.mark.slow) for name in list(rows)[number:])
    return [*list(rows)[:number], *slow]


every_device = pytest.mark.parametrize(
    "device", ["fake", pytest.param("cuda", marks=pytest.mark.gpu)]
)
every_way = pytest.mark.parametrize(("mode", "execution"), WAYS)


class AtAttention(TorchFunctionMode):
    """Calls a function of (queries, keys, values) and bias before each fused attention.

    What it returns takes the place of the attention, unless it is None.
    """

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, found = kwargs or {}, None
        if func is F.scaled_dot_product_attention:
            found = self.call(args, kwargs["attn_mask"])
        return func(*args, **kwargs) if found is None else found


def _kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> str:
    """Return the kernel that torch chooses on a GPU if cuDNN's is left out."""
    assert q.device.type == k.device.type == v.device.type == "cuda"
    assert q.dtype == k.dtype == v.dtype
    half = q.dtype in (torch.bfloat16, torch.float16)
    if bias is None and half:
        return FLASH
    fits = half or q.dtype == torch.float32
    return EFFICIENT if fits and q.shape[-1] % (8 if half else 4) == 0 else MATH


@contextmanager
def _on(device: str, model: Any) -> Iterator[None]:
    with fake_cuda(model) if device == "fake" else nullcontext(model.to(device)):
        yield


def _model(backbone: str, mode: str = "deep", execution: str = "prefix", **options: Any) -> Any:
    return build(backbone, mode=mode, execution=execution, **FAMILIES[backbone], **options)


def _images(model: Any) -> Tensor:
    precision = next(model.patch_embed.parameters()).dtype
    return torch.zeros(3, *images(model).shape[1:], device="cuda", dtype=precision)


def _backward(logits: Tensor, device: str) -> None:
    if device == "cuda":  # torch can't start the threads of a device that is not there
        logits.float().sum().backward()


@every_device
@pytest.mark.parametrize("precision", _first(PRECISIONS, 3))
@every_way
@pytest.mark.parametrize("backbone", _first(FAMILIES, 4))
def test_fused_kernels_other_than_cudnns_serve_every_model(
    backbone: str, mode: str, execution: str, precision: str, device: str
) -> None:
    model = _model(backbone, mode, execution)
    merged = precision == "bf16 backbone"
    if merged:
        model.prompts.apply_merge(merge_prompts(model, [(images(model),)], 0.5))
    else:
        masked(model)
    of_model, of_prompts, autocast = PRECISIONS[precision]
    model.to(of_model).prompts.to(of_prompts)
    taken = []

    def note(own: tuple[Tensor, ...], bias: Tensor | None) -> None:
        assert not cuda.cudnn_sdp_enabled()
        assert bias is None or bias.dtype == own[0].dtype
        taken.append(_kernel(*own, bias))
        if device == "cuda":
            chosen = torch._fused_sdp_choice(*own, attn_mask=bias)
            assert SDPBackend(chosen).name == taken[-1]

    with ExitStack() as stack:
        stack.enter_context(_on(device, model))
        if autocast:
            stack.enter_context(torch.autocast("cuda", autocast))
        stack.enter_context(AtAttention(note))
        batch = _images(model)
        for training in (True, False):
            _backward(model.train(training)(batch), device)
        gate = torch.zeros(3, *model.prompts.keep.shape, device="cuda", requires_grad=True)
        with model.prompts.gated(gate):
            _backward(model(batch), device)
        with torch.inference_mode():
            model(batch)
    flash = backbone in WITHOUT_BIAS and (autocast or of_model) != torch.float32
    assert {EFFICIENT} <= {*taken} <= {EFFICIENT, *[FLASH] * flash}
    assert merged or (FLASH in taken) == flash  # merged prompts have a bias
    assert cuda.cudnn_sdp_enabled()


@every_device
def test_a_kernel_that_the_caller_chooses_is_taken(device: str) -> None:
    model, seen = _model("class_token").to(torch.bfloat16), []

    def note(own: tuple[Tensor, ...], _: Tensor | None) -> Tensor:
        seen.append((cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.math_sdp_enabled()))
        return own[0]

    with _on(device, model), AtAttention(note):
        for chosen in ("CUDNN_ATTENTION", MATH, FLASH):
            with sdpa_kernel(getattr(SDPBackend, chosen)):
                model(_images(model))
    assert (
        seen[::2]
        == seen[1::2]
        == [(True, False, False), (False, False, True), (False, True, False)]
    )


@every_device
def test_an_error_in_attention_leaves_the_setting_of_torch(device: str) -> None:
    model = _model("class_token")

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError

    with _on(device, model), pytest.raises(torch.OutOfMemoryError), AtAttention(fail):
        model(_images(model))
    assert cuda.cudnn_sdp_enabled()


@every_device
@pytest.mark.parametrize("backbone", ["class_token", "swin_pooled_padded"])
def test_a_compiled_and_an_exported_model_leave_out_the_same_kernel(
    backbone: str, device: str
) -> None:
    model, targets = masked(_model(backbone)), []

    def note(graph: torch.fx.GraphModule, _: Any) -> Any:
        targets.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    with _on(device, model), torch.no_grad():
        torch.compile(model, backend=note, fullgraph=True)(_images(model))
        for strict in (True, False):
            exported = torch.export.export(model, (_images(model),), strict=strict)
            assert not any("cudnn" in str(node.target) for node in exported.graph.nodes)
    found = [t for t in targets if t in (F.scaled_dot_product_attention, cuda.enable_cudnn_sdp)]
    set_, attend = cuda.enable_cudnn_sdp, F.scaled_dot_product_attention
    assert found == [set_, attend, set_] * (len(found) // 3)
    assert attend in found
    assert cuda.cudnn_sdp_enabled()
