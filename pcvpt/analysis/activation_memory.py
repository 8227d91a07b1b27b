"""What autograd holds in memory between forward and backward."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def held_for_backward(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return the bytes that one forward pass with its loss leaves held for backward.

    Each piece of memory counts once and as a whole, however many tensors look into it. Parameters
    and buffers do not count: they are there anyway. The figure is exact on every device, and the
    difference of two batches is what their further images add.

    Args:
        model: maps images to logits; in the mode it is to be measured in.
        images: ``(b, 3, h, w)``.
        labels: ``(b,)``, classes.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor  # keeps the memory, so that its address is not given to another

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = F.cross_entropy(model(images), labels)
    del loss
    return sum(held.values())
