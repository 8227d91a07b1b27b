"""The tensors of an adapter: kept prompts in a row, the mask that says whose they are, the head.

Axes: l layers, p prompts per layer, d width.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from pcvpt.adapters.description import DTYPES
from pcvpt.adapters.fault import Fault
from pcvpt.models import PromptedTransformer

KEEP, HEAD = "prompts.keep", ("head.weight", "head.bias")


def pack(model: PromptedTransformer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an adapter of ``model``, on the CPU.

    Those of the prompts are ``(kept, d)``, layer after layer, one for each run of layers of one
    width; ``prompts.keep`` is the mask ``(l, p)``.

    Args:
        model: whose layout ``state`` has.
        state: trained tensors by the names of the model's state dict.

    Raises:
        Fault: for a tensor that is missing, of another shape, or not finite.
    """
    own = model.state_dict()
    head = next(name for name, part in model.named_modules() if part is _head(model))
    values = [f"prompts.{name}" for name, _ in model.prompts.named_parameters()]
    named = [KEEP, *values, f"{head}.weight", f"{head}.bias"]
    for name in named:
        if name not in state or name not in own or state[name].shape != own[name].shape:
            raise Fault(f"{name} is missing, or not of the shape of the model's")
    keep, *rows = (state[name].detach().cpu() for name in named[: 1 + len(values)])
    packed = {KEEP: keep}
    for name, (layers, _), all_prompts in zip(values, model.prompts.runs(), rows, strict=True):
        packed[name] = all_prompts[keep[layers]]
    for name, own_name in zip(HEAD, named[-2:], strict=True):
        packed[name] = state[own_name].detach().cpu()
    _check_values(packed)
    return {name: tensor.contiguous() for name, tensor in packed.items()}


def sizes(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return what a model for ``tensors`` must have: classes, and prompts per layer.

    Raises:
        Fault: for tensors that are missing, or of a kind that fits no model.
    """
    kinds = {KEEP: 2, HEAD[0]: 2, HEAD[1]: 1}
    for name, axes in kinds.items():
        if name not in tensors or tensors[name].ndim != axes:
            raise Fault(f"{name} is missing, or no tensor of {axes} axes")
    _check_values(tensors)
    return tensors[HEAD[0]].shape[0], int(tensors[KEEP].sum(1).max()) if tensors[
        KEEP
    ].numel() else 0


def check_shapes(model: PromptedTransformer, tensors: Mapping[str, Tensor]) -> None:
    """Raise a Fault unless ``tensors`` are those of ``model``, which may be without contents."""
    keep, bank, head = tensors[KEEP], model.prompts, _head(model)
    if len(keep) != len(bank.keep):
        raise Fault(f"{KEEP} has {len(keep)} layers, the backbone {len(bank.keep)}")
    wanted = {name: tuple(head.get_parameter(name.removeprefix("head.")).shape) for name in HEAD}
    for (name, values), (layers, _) in zip(bank.named_parameters(), bank.runs(), strict=True):
        wanted[f"prompts.{name}"] = (int(keep[layers].sum()), values.shape[2])
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != KEEP}
    if found != wanted:
        raise Fault(f"its tensors are {found}, the backbone needs {wanted}")


@torch.no_grad()
def put(model: PromptedTransformer, tensors: Mapping[str, Tensor]) -> None:
    """Set prompts, mask and head of ``model`` to ``tensors``, in the precision that these have."""
    bank, keep = model.prompts, tensors[KEEP]
    front = torch.arange(bank.keep.shape[1]) < keep.sum(1, keepdim=True)
    for (name, values), (layers, _) in zip(bank.named_parameters(), bank.runs(), strict=True):
        packed = tensors[f"prompts.{name}"]
        padded = packed.new_zeros(values.shape)
        padded[front[layers]] = packed
        values.data = padded
    bank.apply_mask(list(front))
    head = _head(model)
    for name in HEAD:
        head.get_parameter(name.removeprefix("head.")).data = tensors[name].clone()


def _head(model: PromptedTransformer) -> nn.Module:
    head: nn.Module = cast(Any, model).get_classifier()
    return head


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name == KEEP:
            # A byte that is neither 0 nor 1 is a mask of no meaning.
            if tensor.dtype is not torch.bool or bool((tensor.view(torch.uint8) > 1).any()):
                raise Fault(f"{name} is not a mask")
        elif tensor.dtype not in DTYPES.values() or not bool(tensor.isfinite().all()):
            raise Fault(f"{name} does not hold finite numbers")
