"""Prompts that start as tokens of training images (Wang et al., arXiv 2402.02382).

Axes: b images, n tokens, d width.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from pcvpt.errors import UsageError
from pcvpt.models.evaluation_mode import evaluating, prepared_images
from pcvpt.models.transformer import PromptedTransformer


def init_from_tokens(model: PromptedTransformer, images: Tensor, seed: int = 0) -> None:
    """Set the prompts of each block to tokens that enter it, chosen at random from ``images``.

    The tokens are those of the backbone without prompts: class token, registers and patches. In
    mode "prefix" the prompts become their keys and values.

    Args:
        model: Model with prompts, none of them masked. Its head does not matter.
        images: Normalised images ``(b, 3, h, w)``; about 32 from all classes are enough.
        seed: Seed of the choice. Default: 0.

    Raises:
        UsageError: If the model has no prompts or frozen ones, the images are not floats, or there
            are fewer tokens than prompts.
    """
    bank = model.prompts
    layers, count = bank.keep.shape
    if not bank.keep.numel():
        raise UsageError("prompt_init='tokens' in mode 'linear', which has no prompts")
    bank.require_thawed()
    generator, chosen = torch.Generator().manual_seed(seed), list[Tensor]()

    def choose(_: Any, args: tuple[Any, ...]) -> None:
        entering = args[0][0] if isinstance(args[0], tuple) else args[0]
        tokens = entering.flatten(0, -2)  # b n d, or in Swin b height width d
        if len(tokens) < count:
            raise UsageError(
                f"prompt_init='tokens': {len(images)} images have {len(tokens)} tokens, fewer than "
                f"the {count} prompts of a layer; give more images or fewer prompts"
            )
        places = torch.randperm(len(tokens), generator=generator)[:count]
        chosen.append(tokens[places.to(tokens.device)])

    # Without autocast: prompts have the model's own precision.
    with evaluating(model), torch.autocast(bank.device.type, enabled=False), ExitStack() as hooks:
        bank.apply_mask(list(torch.zeros_like(bank.keep)))
        for block in model.blocks[:layers]:
            hooks.enter_context(block.register_forward_pre_hook(choose))
        model.forward(prepared_images(model, images))  # not as compiled, which knows no hook
    with torch.inference_mode(False), torch.no_grad():
        for layer, tokens in enumerate(chosen):
            bank.layer_values(layer).copy_(model.as_prompts(layer, tokens, bank.form))
