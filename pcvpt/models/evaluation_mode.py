"""Temporary evaluation mode, the one way to run a model in the middle of training, and images."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from pcvpt.errors import UsageError
from pcvpt.models.temporary import changed
from pcvpt.models.transformer import PromptedTransformer


@contextmanager
def evaluating(model: PromptedTransformer, *, gradients: bool = False) -> Iterator[None]:
    """Put ``model`` into evaluation mode within this context, and restore everything at the end.

    Restored, after an error too: the mode of each submodule, the mask of the prompts, the
    execution, and the random state of the CPU and of the model's device (a DataLoader draws a seed
    from it each time it is iterated). Gradients that parameters hold are not touched.

    With ``gradients``, operations are recorded for them, even where the caller runs under
    ``torch.inference_mode`` or ``torch.no_grad``.
    """
    bank, execution = model.prompts, model.execution
    keep, device = bank.keep.clone(), bank.device
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.inference_mode(False) if gradients else nullcontext(),
        torch.set_grad_enabled(gradients),
        changed(model.modules(), "training", False),
    ):
        try:
            yield
        finally:
            if not torch.equal(bank.keep, keep):
                bank.apply_mask(list(keep))
            if model.execution != execution:
                model.execution = execution


def prepared_images(model: PromptedTransformer, images: Tensor) -> Tensor:
    """Return ``images`` on the model's device, in its precision.

    Raises:
        UsageError: If they are not floats, so that they are not normalised.
    """
    if not images.is_floating_point():
        raise UsageError(
            f"images are {images.dtype}; normalise them first, as on_after_batch_transfer of "
            "the DataModules in pcvpt.data does"
        )
    # A clone, because tensors made in inference mode can't be saved for backward.
    like = next(model.patch_embed.parameters())
    return images.to(like, copy=images.is_inference())
