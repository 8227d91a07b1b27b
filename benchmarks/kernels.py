"""Count the kernels that a training step starts on a GPU, on a GPU without contents.

    python benchmarks/kernels.py [--precision bf16-mixed]

Operations of torch that compute are counted, one kernel each; views are not. The tensors have
shapes and types, but no contents, so no GPU is needed. Most operations start one kernel, some a few
more. The optimizer, metrics and the transfer of a batch are left out. The backward pass calls the
nodes of autograd one by one, because torch can't start the threads of a device that is not there.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from report import options, prepare, show, write
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pcvpt import PhaseRecipe, PromptTuner

CASES = (("vit_base_patch16_224", 10), ("swin_base_patch4_window7_224", 50))
_NO_KERNEL = ("detach", "empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "lift")


class Kernels(TorchDispatchMode):
    """Counts operations that start a kernel, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if func.namespace == "aten" and not func.is_view and name not in _NO_KERNEL:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class _FusedAttention(TorchFunctionMode):
    """Takes the fused attention of a GPU; torch would ask the device, which is absent."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        (q, k, v), bias = args, kwargs["attn_mask"]
        if bias is None and q.dtype != torch.float32:
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
        bias = None if bias is None else bias.expand(*q.shape[:3], k.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[0]


@contextmanager
def without_contents(module: Any) -> Iterator[None]:
    """Put ``module``, for good, on a GPU without contents, where new tensors are made within."""
    bank = module.model.prompts
    with FakeTensorMode(), ExitStack() as stack:
        for part in module.modules():
            for name, own in part._parameters.items():
                if own is not None:
                    part._parameters[name] = nn.Parameter(_fake(own), own.requires_grad)
            for name, own in part._buffers.items():
                if own is not None:
                    part._buffers[name] = _fake(own)
        bank._kept = {layer: _fake(own) for layer, own in bank._kept.items()}
        stack.enter_context(mock.patch.object(bank, "note_mask"))
        missing = "torch.cuda.amp.common.amp_definitely_not_available"  # asked by autocast
        stack.enter_context(mock.patch(missing, return_value=False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", return_value=True))
        yield


def _fake(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def backward(loss: Tensor) -> None:
    """Compute gradients as ``loss.backward()`` does, without a thread of the device."""
    pending: dict[Any, list[Any]] = {loss.grad_fn: [torch.ones_like(loss)]}
    while pending:
        node = max(pending, key=lambda node: node._sequence_nr())
        given = pending.pop(node)
        found = node(*given) if callable(node) else node.apply(*given)
        found = found if isinstance(found, tuple) else (found,)
        for (following, number), gradient in zip(node.next_functions, found, strict=False):
            if following is None or gradient is None or hasattr(following, "variable"):
                continue  # a parameter takes its first gradient as it is
            slots = pending.setdefault(following, [None] * len(following._input_metadata))
            own = following._input_metadata[number]
            if gradient.shape != own.shape:
                gradient = gradient.sum_to_size(own.shape)
            gradient = gradient.to(own.dtype)
            slots[number] = gradient if slots[number] is None else slots[number] + gradient


def count(module: PromptTuner, batch: int, mixed: bool) -> dict[str, Counter[str]]:
    """Return the kernels of ``forward`` and ``backward`` in the second step of a training.

    The first step may make what later ones keep.
    """
    size: Any = module.model.patch_embed.img_size
    with without_contents(module.train()):
        images = torch.empty(batch, 3, *size, device="cuda")
        labels = torch.empty(batch, dtype=torch.long, device="cuda")
        for _ in range(2):
            kernels = {"forward": Kernels(), "backward": Kernels()}
            autocast = torch.autocast("cuda", torch.bfloat16, enabled=mixed)
            with autocast, _FusedAttention(), kernels["forward"]:
                loss = F.cross_entropy(module(images).float(), labels)
            with kernels["backward"]:
                backward(loss)
    return {name: own.found for name, own in kernels.items()}


def tuner(backbone: str, prompts: int, **given: Any) -> PromptTuner:
    """Return a module whose tensors have no contents yet."""
    recipe = PhaseRecipe(torch.optim.SGD, base_lr=1.0)
    with torch.device("meta"):
        return PromptTuner(
            100, recipe, recipe, backbone, num_prompts=prompts, pretrained=False, **given
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="Batch size.")
    parser.add_argument(
        "--precision", nargs="+", choices=["32-true", "bf16-mixed"], default=["bf16-mixed"]
    )
    args = parser.parse_args(arguments)
    device, rows = prepare(args), []
    for backbone, prompts in CASES:
        for precision in args.precision:
            found = count(tuner(backbone, prompts), args.batch, precision == "bf16-mixed")
            row: dict[str, Any] = {"backbone": backbone, "prompts": prompts, "precision": precision}
            rows.append(row | {name: dict(own.most_common()) for name, own in found.items()})
    write("kernels", device, args, rows=rows)
    show("Kernels of a training step, without the optimizer", table(rows))


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay out ``rows`` for the terminal."""
    shown = Table("backbone", "precision", "forward", "of them casts", "backward")
    for row in rows:
        casts = row["forward"].get("_to_copy", 0)
        forward, back = (sum(row[name].values()) for name in ("forward", "backward"))
        shown.add_row(row["backbone"], row["precision"], *map(str, (forward, casts, back)))
    return shown


if __name__ == "__main__":
    main()
