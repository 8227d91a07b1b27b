"""Multiply-accumulates of each block, counted by fvcore on a copy without weights.

fvcore is imported where it counts, so that nothing else depends on it.

Matrix products, convolutions and attention products count, as in Table 1 of Kim et al., arXiv
2305.17223; normalisations, activations, biases and softmax do not.
"""

import copy
import math
import warnings
from collections.abc import Mapping
from itertools import pairwise
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


def macs_by_block(model: PromptedTransformer, images: int) -> dict[str, int]:
    """Count the multiply-accumulates of a batch of ``images``: of the model, "", and of each block.

    The images have the model's input size. The model is one of :func:`without_weights`. A block
    that costs what the block before it does is not computed: it has the count of that one.
    """
    with warnings.catch_warnings():  # fvcore scripts its losses, which torch deprecates
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis

    batch = torch.zeros(()).expand(images, 3, *model.patch_embed.img_size)
    analysis = FlopCountAnalysis(_ReadEveryLayer(model), batch)
    analysis.set_op_handle(f"aten::{_ATTENTION}", _attention_products)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    repeated = _repeated_blocks(model)
    for block in repeated:
        block.forward = lambda x, **_: x
    try:
        with torch.no_grad():  # attention is then one operation that can be counted
            counted = analysis.by_module_and_operator()
    finally:
        for block in repeated:
            del block.forward  # the one of its class is left
    names = {part: name for name, part in model.named_modules()}
    macs, last = {"": _macs(counted["model"])}, 0
    for block in model.blocks:
        if block in repeated:
            macs[""] += last
        else:
            last = _macs(counted[f"model.{names[block]}"])
        macs[names[block]] = last
    return macs


def _repeated_blocks(model: PromptedTransformer) -> list[Any]:
    """Return the blocks that have the prompts, and all shapes, of the block before them."""
    kinds = []
    for block in model.blocks:
        source = getattr(block.attn, "source", None)  # a probe has none
        flags = [vars(block).get(name) for name in ("inserts", "removes", "pooled_rows", "lean")]
        shapes = [part.shape for part in block.parameters()]
        kinds.append((source and source.count(), flags, shapes))
    pairs = zip(model.blocks[1:], pairwise(kinds), strict=True)
    return [block for block, (before, own) in pairs if before == own]


def _macs(by_operator: Mapping[str, float]) -> int:
    return int(sum(by_operator.get(kind, 0) for kind in _COUNTED))


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
