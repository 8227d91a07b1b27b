"""Fingerprint of a backbone's weights, to tell whether two runs have the same ones."""

import hashlib
from typing import Any

from torch import Tensor, nn

# What a checkpoint of pcvpt holds itself.
_TRAINED = ("prompts.", "head.", "head_dist.")
# What `freeze_prompts` computes from prompts.
_FROZEN = ("frozen_k", "frozen_v")
# Resampled to the image size, by arithmetic whose last bits differ between machines and versions.
# The other tensors name the weights as well, so the positions would only add false alarms.
_POSITIONS = ("pos_embed", "relative_position_bias_table")


def backbone_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's state dict that are neither of prompts nor of the head."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(_TRAINED) and not name.endswith(_FROZEN)
    }


def fingerprint(model: nn.Module) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a backbone's tensors.

    It covers name, shape and float32 bytes of the parameters and persistent buffers, sorted by
    timm's names, without prompts, head and position embeddings. So it is the same before and after
    prompting and freezing, on any device but "meta", for any image size, and in any precision that
    can hold the values.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone_tensors(model).items()):
        if name.endswith(_POSITIONS):
            continue
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        values: Any = tensor.detach().float().cpu().contiguous().numpy()
        digest.update(values)
    return digest.hexdigest()[:16]
