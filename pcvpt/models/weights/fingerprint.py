"""A short name for the weights of a backbone, to tell whether two runs stand on the same ones."""

import hashlib

from torch import nn

# What a checkpoint of pcvpt holds itself.
_TRAINED = ("prompts.", "head.", "head_dist.")
# What `freeze_prompts` makes of prompts.
_FROZEN = ("frozen_k", "frozen_v")
# Resampled to the image size, by arithmetic whose last bits differ between machines and versions.
# The other tensors name the weights as well, so the positions would only add false alarms.
_POSITIONS = ("pos_embed", "relative_position_bias_table")
_DIGITS = 16


def fingerprint(model: nn.Module) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a backbone's tensors.

    Taken over name, shape and float32 bytes of the parameters and persistent buffers, sorted by
    timm's names, without prompts, head and position embeddings. So it is the same before and after
    prompting and freezing, on any device, for any image size, and in any precision that holds the
    values.

    Args:
        model: a timm model, prompted or not, with real tensors (not on the "meta" device).
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(_TRAINED) or name.endswith(_POSITIONS + _FROZEN):
            continue
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()[:_DIGITS]
