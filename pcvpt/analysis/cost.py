"""What a model costs to compute."""

import copy
import math
import warnings
from typing import Any

import torch

with warnings.catch_warnings():  # fvcore scripts its losses when imported, which torch deprecates
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis

from pcvpt.models import PromptedVisionTransformer

_COUNTED = ("linear", "conv", "matmul", "scaled_dot_product_attention")


def multiply_accumulates(model: PromptedVisionTransformer) -> int:
    """Count the multiply-accumulates of ``model`` for one image of its input size.

    Matrix products, convolutions and attention products count, as in Table 1 of Kim et al., arXiv
    2305.17223; normalisations and activations do not. Counted by fvcore, which leaves out fused
    attention by itself.
    """
    values = model.prompts.values
    image = torch.zeros(1, 3, *model.patch_embed.img_size, device=values.device, dtype=values.dtype)
    traced = copy.deepcopy(model).eval()
    analysis = FlopCountAnalysis(traced, image)
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_products)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    by_operator = analysis.by_operator()
    return int(sum(by_operator[name] for name in _COUNTED))


def _attention_products(inputs: list[Any], outputs: list[Any]) -> dict[str, float]:
    """Count scores and weighted sum of one fused attention: 2 · b·h·r·k·c."""
    query, key = (value.type().sizes() for value in inputs[:2])
    return {"scaled_dot_product_attention": 2 * math.prod(query) * key[-2]}
