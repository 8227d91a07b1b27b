"""File of an adapter: safetensors with a description, and a digest that detects damage."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pcvpt.adapters.adapter import Adapter, Fault, from_text, shown
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import atomic_file

_MOST_TENSORS = 64  # a Swin has one for each width of its stages, the mask and the head
_DTYPES = {"BOOL", "F16", "BF16", "F32", "F64"}
_FORMAT = "pt"  # what other readers of safetensors ask for; the digest does not cover it


def write_adapter(path: Path, text: str, tensors: Mapping[str, Tensor]) -> None:
    """Write a file with the description ``text`` and ``tensors``, see :func:`atomic_file`."""
    metadata = {"format": _FORMAT, "pcvpt": text, "sha256": digest(text, tensors)}
    content = save(dict(tensors), metadata)
    with atomic_file(path) as file:
        file.write(content)


def read_adapter(path: Path) -> tuple[Adapter, dict[str, Tensor]]:
    """Return description and tensors of a file; raise a UsageError if it is damaged, or no adapter.

    They are not yet checked together.
    """
    try:
        if not path.is_file():
            raise Fault("no such file")
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            if "pcvpt" not in metadata or "sha256" not in metadata:
                raise Fault("not an adapter; pcvpt.save_adapter writes one")
            types = {file.get_slice(name).get_dtype() for name in names[:_MOST_TENSORS]}
            if len(names) > _MOST_TENSORS or not types <= _DTYPES:
                raise Fault(f"{len(names)} tensors of types {shown(sorted(types))}; not an adapter")
            # Copies, as the file may be replaced while its tensors are in use.
            tensors = {name: file.get_tensor(name).clone() for name in names}
        known = metadata.keys() == {"format", "pcvpt", "sha256"} and metadata["format"] == _FORMAT
        if not known or digest(metadata["pcvpt"], tensors) != metadata["sha256"]:
            raise Fault("damaged: its digest does not match its contents; get it again")
        return from_text(metadata["pcvpt"]), tensors
    except Fault as error:
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # the reader raises its own, and those of the system
        reason = shown(str(error))
        raise UsageError(f"{path}: not a readable adapter ({reason}); get it again") from error


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a description and of names, types, shapes and bytes of tensors."""
    total = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
