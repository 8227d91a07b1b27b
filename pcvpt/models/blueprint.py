"""What a prompted model was asked to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Blueprint:
    """The arguments of :func:`pcvpt.create_model` that the model does not tell by itself.

    Attributes:
        backbone: a timm model name.
        num_prompts: prompts per layer, before any were condensed away.
        pretrained: where the backbone's weights came from.
        timm_kwargs: further arguments of ``timm.create_model``.
    """

    backbone: str
    num_prompts: int
    pretrained: bool | str | Path
    timm_kwargs: Mapping[str, Any]
