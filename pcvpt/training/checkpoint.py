"""Contents of a checkpoint of the LightningModule, and whether they fit the model at hand."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from pcvpt.data.splits import Classes
from pcvpt.errors import UsageError

PROMPTS = "model.prompts."  # begins the names of the prompts' tensors in a state dict


class Progress(NamedTuple):
    """Completed epochs of a checkpoint's run, and trained batches of the next epoch."""

    epochs: int
    batches: int


def progress(checkpoint: Mapping[str, Any]) -> Progress:
    """Return how far the run was when Lightning's Trainer saved ``checkpoint``."""
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    batches = loop["epoch_loop.batch_progress"]["current"]
    within = epochs["started"] > epochs["processed"]
    return Progress(epochs["processed"], batches["processed"] if within else 0)


def saved_classes(checkpoint: Mapping[str, Any]) -> Classes | None:
    """Return the classes of the model in ``checkpoint``; None if it does not know them."""
    found = checkpoint["pcvpt"].get("classes")  # older ones have none
    return None if found is None else Classes(*found)


def saved_state(module: pl.LightningModule) -> dict[str, Tensor]:
    """Return the state of ``module`` without the backbone: what is trained, masks, and phase."""
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    return {
        name: value
        for name, value in module.state_dict().items()
        if name in trained or name.startswith(PROMPTS) or name == "phase"
    }


def trained_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all trained parameters of ``module`` by name."""
    trained = ((name, value) for name, value in module.named_parameters() if value.requires_grad)
    return {name: value.detach().clone() for name, value in trained}


@torch.no_grad()
def restore_parameters(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set parameters of ``module`` to ``values``, which are given by name."""
    for name, value in values.items():
        module.get_parameter(name).copy_(value)


def check_identity(
    checkpoint: Mapping[str, Any], identity: Mapping[str, Any], fingerprint: str
) -> None:
    """Raise a UsageError unless ``checkpoint`` has the same backbone and the same form of prompts.

    ``identity`` has the options that a checkpoint must share with the model, and ``fingerprint``
    is that of the backbone's weights.
    """
    saved = checkpoint.get("pcvpt")
    if saved is None:
        raise UsageError("not a checkpoint of pcvpt")
    saved = {"pool_prompts": False, "timm_kwargs": {}, **saved}  # older ones lack these
    for name, value in identity.items():
        if saved[name] != value:
            raise UsageError(
                f"the checkpoint was trained with {name}={saved[name]!r}, the configuration "
                f"has {name}={value!r}; use the config.yaml of the run"
            )
    weights = saved.get("fingerprint", fingerprint)  # older ones have none
    if weights != fingerprint:
        raise UsageError(
            f"the checkpoint was trained on a backbone with the fingerprint {weights}, this "
            f"one has {fingerprint}, so its weights differ; give the same `pretrained`"
        )


def check_tensors(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise a UsageError unless ``saved`` has each tensor of ``own``, in its shape."""
    for name, value in own.items():
        if name not in saved:
            raise UsageError(f"the checkpoint lacks {name}; it is incomplete")
        if saved[name].shape != value.shape:
            classes = f"; classes: {len(saved[name])} and {len(value)}"
            raise UsageError(
                f"{name} is {tuple(saved[name].shape)} in the checkpoint and "
                f"{tuple(value.shape)} in the model{classes * ('head' in name)}"
            )
