"""Messages about the weights that a backbone gets."""

import logging
import os
import sys
from typing import Any

import timm
from timm.models import split_model_name_tag

LOG = logging.getLogger("pcvpt")

# The weights of Visual Prompt Tuning (Jia et al., ECCV 2022), where timm's short name means others.
_PAPER = {
    "vit_base_patch16_224": "orig_in21k",
    "vit_large_patch16_224": "orig_in21k",
    "swin_base_patch4_window7_224": "ms_in22k",
}


def log_in_first_process(line: str) -> None:
    """Log ``line`` at level INFO, in the first process of a run only.

    Without any log handler, as in a plain script or a notebook, it goes to stderr, unless the
    logger "pcvpt" has a higher level.
    """
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    if next((rank for rank in ranks if rank is not None), "0") != "0":
        return
    if LOG.hasHandlers():
        LOG.info(line)
    elif LOG.level <= logging.INFO:
        print(line, file=sys.stderr)


def weights_note(backbone: str) -> str | None:
    """Return one line about the weights of a timm name without a tag, and those of the paper.

    None if the name has a tag, or only one set of weights.
    """
    architecture, tag = split_model_name_tag(backbone)
    if tag or not timm.is_model(architecture):
        return None
    config = timm.get_pretrained_cfg(architecture)
    others = len(timm.list_pretrained(f"{architecture}.*")) - 1
    if config is None or not config.tag or others < 1:
        return None
    note = f"{backbone}: timm's default weights, {architecture}.{config.tag}"
    paper = _PAPER.get(architecture)
    if paper is not None and paper != config.tag:
        return f"{note}; those of Visual Prompt Tuning are {architecture}.{paper}"
    return f"{note}; {others} other{'s' * (others > 1)} in timm.list_pretrained('{architecture}.*')"


def normalization_note(model: Any) -> str:
    """Return one line about the normalisation of images for weights from a file.

    A file of weights does not contain it, so it is that of the timm model.
    """
    config = model.pretrained_cfg
    mean, std = (" ".join(f"{value:g}" for value in config[name]) for name in ("mean", "std"))
    name = config.get("architecture", "the backbone") + f".{config['tag']}" * bool(config["tag"])
    return (
        f"protocol timm normalises as {name}: mean {mean}, deviation {std}; for a file that wants "
        "others set model.timm_kwargs.pretrained_cfg_overlay"
    )
