"""Multiply-accumulates of each module, counted by fvcore on a copy without weights.

fvcore is imported where it counts, so that nothing else depends on it.

Matrix products, convolutions and attention products count, as in Table 1 of Kim et al., arXiv
2305.17223; normalisations, activations, biases and softmax do not.
"""

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from pcvpt.models import PromptedTransformer

_ATTENTION = "scaled_dot_product_attention"
_COUNTED = ("linear", "conv", "matmul", "addmm", "bmm", "baddbmm", "einsum", _ATTENTION)


def without_weights(model: PromptedTransformer) -> PromptedTransformer:
    """Return a copy of ``model`` on the CPU, in evaluation mode, that takes no memory.

    Parameters are float32 zeros of stride 0. Indices keep their values; the mask of a model on the
    meta device, which has none, keeps all prompts.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        zeros = torch.zeros(()).expand(parameter.shape)
        memo[id(parameter)] = nn.Parameter(zeros, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        real = torch.zeros_like(buffer, device="cpu") if buffer.is_meta else buffer.clone().cpu()
        memo[id(buffer)] = real.float() if real.is_floating_point() else real
    hollow = copy.deepcopy(model, memo)
    if model.prompts.keep.is_meta:
        hollow.prompts.keep.fill_(True)
    return hollow.eval()


def macs_by_module(model: PromptedTransformer, images: int) -> dict[str, int]:
    """Count the multiply-accumulates of a batch of ``images`` by module name; "" is the model.

    The images have the model's input size. The model is one of :func:`without_weights`.
    """
    with warnings.catch_warnings():  # fvcore scripts its losses, which torch deprecates
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis

    batch = torch.zeros(()).expand(images, 3, *model.patch_embed.img_size)
    analysis = FlopCountAnalysis(_ReadEveryLayer(model), batch)
    analysis.set_op_handle(f"aten::{_ATTENTION}", _attention_products)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    with torch.no_grad():  # attention is then one operation that can be counted
        counted = analysis.by_module_and_operator()
    return {
        name.removeprefix("model").removeprefix("."): int(sum(by[kind] for kind in _COUNTED))
        for name, by in counted.items()
    }


class _ReadEveryLayer(nn.Module):
    """A model that reads what each of its layers returns.

    A trace drops results that nothing reads, such as a block's output at the prompts that the next
    block replaces. The model computes them nevertheless, so they count.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        sums: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _, __, output: sums.append(output.sum()))
            for layer in self.model.modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        ]
        output: Tensor = self.model(images)
        for hook in hooks:
            hook.remove()
        return output, *sums


def _attention_products(inputs: list[Any], outputs: list[Any]) -> dict[str, float]:
    """Count scores and weighted sum of one fused attention, which fvcore alone leaves out."""
    query, key, value = (tensor.type().sizes() for tensor in inputs[:3])
    rows = outputs[0].type().sizes()[:-1]  # the queries of all heads and images
    return {_ATTENTION: math.prod(rows) * key[-2] * (query[-1] + value[-1])}
