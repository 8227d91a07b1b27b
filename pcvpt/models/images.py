"""Images as a model takes them."""

from torch import Tensor

from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer


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
