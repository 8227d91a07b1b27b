"""Sums over the images of a batch, in pieces that fit into memory.

Scoring holds activations of all blocks, in the model's own precision. A batch that fits in mixed
precision, or on a larger device, may therefore be too large for scoring.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from pcvpt.errors import UsageError, is_out_of_memory


class PiecewiseSum:
    """A sum over the images of a batch, in smaller pieces once memory is too small for it.

    ``piece`` is a function from images ``(b, 3, h, w)`` and labels ``(b,)`` to a sum over them;
    ``size`` is the number of images of one, None as long as whole batches fit.
    """

    def __init__(self, piece: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._piece = piece
        self.size: int | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the sum over a batch in float64.

        After a failure the rest of the batch, and all further batches, are divided into pieces of
        half the size, with a warning. A UsageError is raised if one image does not fit.
        """
        total: Tensor | None = None
        done, failed = 0, 0
        while total is None or done < len(labels):
            piece = slice(done, done + (self.size or len(labels)))
            part = self._attempt(images[piece], labels[piece])
            if part is None:
                failed = failed or len(labels[piece])
                continue
            if failed:
                warnings.warn(
                    f"scoring: not enough memory for {failed} images at a time; "
                    f"from now on it takes {self.size}",
                    stacklevel=2,
                )
            total = part if total is None else total + part
            done, failed = done + len(labels[piece]), 0
        return total

    def _attempt(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """Return the sum over one piece; if it does not fit, halve the size and return None."""
        try:
            return self._piece(images, labels).detach().double()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(labels) == 1:
                reason = str(error).partition("\n")[0]
                raise UsageError(
                    "not enough memory to score the prompts, even with one image at a time "
                    f"({reason}); free memory on the device, build the model with "
                    "gradient_checkpointing, or choose the score 'attention', which needs no "
                    "gradients, or 'magnitude', which needs no images"
                ) from error
        # Only here, without the traceback, is the memory of the failed graph free.
        if images.device.type == "cuda":
            torch.cuda.empty_cache()
        self.size = (len(labels) + 1) // 2
        return None
