"""Sums over the images of a batch, in pieces that fit into memory.

Scoring keeps activations of all blocks, in the model's own precision. A batch size that suits
training in mixed precision, or on a larger device, may therefore not suit scoring.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from pcvpt.errors import UsageError

Piece = Callable[[Tensor, Tensor], Tensor]

# What torch's allocators say for which there is no exception of their own.
_EXHAUSTED = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
)


class PiecewiseSum:
    """A sum over the images of a batch, taken of smaller pieces once memory does not suffice.

    Args:
        piece: ``(images (b, 3, h, w), labels (b,))`` to a tensor, itself a sum over the images.

    Attributes:
        size: images taken at a time; None as long as whole batches fit.
    """

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self.size: int | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the sum over a batch in float64.

        After a failure the rest of the batch, and all further ones, are taken in pieces of half
        the size; a warning says so. Images of the batch that were summed before are not done again.

        Raises:
            UsageError: when memory does not suffice for one image.
        """
        total: Tensor | None = None
        done, failed = 0, 0
        while total is None or done < len(labels):
            end = min(done + (self.size or len(labels)), len(labels))
            part = self._attempt(images[done:end], labels[done:end])
            if isinstance(part, str):
                failed = failed or end - done
                self.size = _half(end - done, part)
                continue
            if failed:
                warnings.warn(
                    f"scoring: not enough memory for {failed} images at a time; "
                    f"from here on it takes {self.size}",
                    stacklevel=2,
                )
                failed = 0
            total = part if total is None else total + part
            done = end
        return total

    def _attempt(self, images: Tensor, labels: Tensor) -> Tensor | str:
        """Return the sum over one piece, or what the allocator said if that does not fit."""
        try:
            return self._piece(images, labels).detach().double()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            said = str(error).partition("\n")[0]
        # Only here, with the traceback gone, is nothing of the failed graph held any more.
        if images.device.type == "cuda":
            torch.cuda.empty_cache()
        return said


def is_out_of_memory(error: RuntimeError) -> bool:
    """Say whether ``error`` is that of an allocator, of a GPU or of the CPU, without memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in _EXHAUSTED)


def _half(size: int, said: str) -> int:
    if size <= 1:
        raise UsageError(
            f"not enough memory to score the prompts, even with one image at a time ({said}); free "
            "memory on the device, build the model with gradient_checkpointing, or choose score "
            "'attention', which needs no gradients, or 'magnitude', which needs no images"
        )
    return (size + 1) // 2
