"""A GPU that is not there: tensors without contents, which run the same operations."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from torch import Tensor, nn
from torch._subclasses import FakeTensorMode


@contextmanager
def fake_cuda(model: Any) -> Iterator[None]:
    """Move ``model``, for good, to a GPU without contents; new tensors are such within this."""
    bank, fakes = model.prompts, FakeTensorMode()
    kept = bank._kept

    def moved(tensor: Tensor) -> Tensor:
        fake = fakes.from_tensor(tensor.detach())
        with fakes:
            return fake.to("cuda")

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                own = nn.Parameter(moved(parameter), parameter.requires_grad)
                module._parameters[name] = own
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved(buffer)
    bank._kept = {layer: moved(index) for layer, index in kept.items()}
    with ExitStack() as stack:
        stack.enter_context(fakes)
        stack.enter_context(mock.patch.object(bank, "note_mask"))
        unavailable = "torch.cuda.amp.common.amp_definitely_not_available"  # asked by autocast
        for name, answer in ((unavailable, False), ("torch.cuda.is_bf16_supported", True)):
            stack.enter_context(mock.patch(name, return_value=answer))
        yield
