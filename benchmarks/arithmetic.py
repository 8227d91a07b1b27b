"""Multiply-accumulates that a piece of work executes, its backward passes included.

Counted while it runs, operation by operation, so that whatever a form computes is seen: prompts in
the sequence, rows that are left out, backward passes that stop at frozen parts. Fused attention
counts two products forward (scores, weighted sum) and four backward (of values, of weights, of
queries, of keys). That a fused kernel computes its scores once more in backward, to hold no matrix
of them, is its price for memory and not needed arithmetic, so it does not count.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_FUSED = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")


def multiply_accumulates(work: Callable[[], object]) -> int:
    """Run ``work`` and return its multiply-accumulates."""
    with _Counter() as counter:
        work()
    return counter.operations // 2


class _Counter(TorchDispatchMode):
    """PyTorch's own formulas, without the part of its counter that attributes to modules.

    That part fails where prompts are looked up without gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = func._overloadpacket
        fused = _FORMULAS.get(operation)
        if fused is None and operation not in flop_registry:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if fused is not None:
            self.operations += 2 * fused(*args)
        elif operation in flop_registry:
            self.operations += flop_registry[operation](*args, **kwargs, out_val=result)
        return result


def _forward(query: Any, key: Any, value: Any, *_: Any) -> int:
    return prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _backward(_: Any, query: Any, key: Any, value: Any, *__: Any) -> int:
    return 2 * _forward(query, key, value)


_FORMULAS = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{name}{suffix}"): formula
    for name in _FUSED
    for suffix, formula in (("", _forward), ("_backward", _backward))
    if hasattr(torch.ops.aten, f"_scaled_dot_product_{name}{suffix}")  # depends on the version
}
