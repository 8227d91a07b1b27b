"""Memory that autograd holds between forward and backward."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def held_for_backward(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return the bytes that one forward pass with its loss holds for backward.

    Each storage counts once, even if several tensors share it. Parameters and buffers do not
    count. The number is exact on every device; the difference between two batch sizes is the
    memory of the further images ``(b, 3, h, w)``. The model runs in its present mode.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor  # keeps the memory, so that its address is not reused

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = F.cross_entropy(model(images), labels)
    del loss
    return sum(held.values())
