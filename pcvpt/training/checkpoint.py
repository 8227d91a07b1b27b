"""What a checkpoint of the LightningModule holds, and whether it fits the model at hand."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning.pytorch as pl
from torch import Tensor

from pcvpt.errors import UsageError


class Progress(NamedTuple):
    """How far a checkpoint's run was.

    Attributes:
        epochs: that were trained in full.
        batches: of the next epoch that were trained, 0 unless it was saved amid it.
    """

    epochs: int
    batches: int


def progress(checkpoint: Mapping[str, Any]) -> Progress:
    """Return how far the run was when Lightning's Trainer saved ``checkpoint``."""
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    batches = loop["epoch_loop.batch_progress"]["current"]
    amid = epochs["started"] > epochs["processed"]
    return Progress(epochs["processed"], batches["processed"] if amid else 0)


def saved_names(module: pl.LightningModule) -> list[str]:
    """Return the names in the state dict of ``module`` that a checkpoint holds.

    Those are what is trained, the prompts' mask and scores, and the phase; not the backbone.
    """
    trained = {name for name, value in module.named_parameters() if value.requires_grad}
    return [
        name
        for name in module.state_dict()
        if name in trained or name.startswith("model.prompts.") or name == "phase"
    ]


def check_identity(
    checkpoint: Mapping[str, Any], identity: Mapping[str, Any], fingerprint: str
) -> None:
    """Raise a UsageError unless ``checkpoint`` was trained on the same backbone, prompted alike.

    Args:
        checkpoint: as Lightning's Trainer saves it.
        identity: what the model at hand was asked to be.
        fingerprint: of its backbone.
    """
    saved = checkpoint.get("pcvpt")
    if saved is None:
        raise UsageError("not a checkpoint of pcvpt")
    saved = {"pool_prompts": False, "timm_kwargs": {}, **saved}  # older ones do not say
    for name, value in identity.items():
        if saved[name] != value:
            raise UsageError(
                f"the checkpoint was trained with {name}={saved[name]!r}, the configuration "
                f"says {name}={value!r}; use the run's own config.yaml"
            )
    weights = saved.get("fingerprint", fingerprint)  # older ones have none
    if weights != fingerprint:
        raise UsageError(
            f"the checkpoint was trained on a backbone with the fingerprint {weights}, this "
            f"one has {fingerprint}: other weights; give the same `pretrained`"
        )


def check_tensors(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise a UsageError unless ``saved`` has each tensor of ``own``, in its shape."""
    for name, value in own.items():
        if name not in saved:
            raise UsageError(f"the checkpoint lacks {name}; it is incomplete")
        if saved[name].shape != value.shape:
            classes = f"; classes: {len(saved[name])} there, {len(value)} in the data"
            raise UsageError(
                f"{name} is {tuple(saved[name].shape)} in the checkpoint and "
                f"{tuple(value.shape)} in the model{classes * ('head' in name)}"
            )
