"""What all transformers with prompts share.

A family mixes this class into timm's own and names the prompted class of each of timm's parts.
Parameters keep timm's names.

Axes: b batch, n tokens, p prompts, d width.
"""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from pcvpt.errors import UsageError
from pcvpt.models.prompt_bank import Form, PromptBank
from pcvpt.models.prompt_keys_values import PromptSource
from pcvpt.models.prompts_at_once import at_once, is_trained_at_once
from pcvpt.models.temporary import whole_images

Mode = Literal["deep", "prefix", "shallow", "linear"]
Execution = Literal["prefix", "tokens"]
_Prompted = TypeVar("_Prompted", bound=type[nn.Module])


def by_timm_class(prompted: Iterable[_Prompted]) -> dict[type[nn.Module], _Prompted]:
    """Return prompted classes by that of timm's, the last base of each."""
    return {own.__bases__[-1]: own for own in prompted}


@dataclass(frozen=True)
class Blueprint:
    """Arguments of :func:`pcvpt.create_model` that can't be read from the model itself."""

    backbone: str
    num_prompts: int  # per layer before condensing
    pretrained: bool | str | Path
    timm_kwargs: Mapping[str, Any]


class PromptedTransformer(nn.Module):
    """A timm transformer whose blocks attend to prompts.

    Everything of timm's stays: parameter names, ``forward_features``, pooling, head. The backbone
    is frozen and always in evaluation mode; ``train()`` reaches only the prompts and the head.

    Attributes:
        prompts: Prompts with their mask, a :class:`~pcvpt.models.prompt_bank.PromptBank`.
        mode: "deep" (every block has its own prompts), "prefix" (they are keys and values),
            "shallow" (prompts enter once), or "linear" (no prompts: a linear probe).
        shares_dropout: Whether one draw of dropout serves all images of a batch, in Deep.
        members: Common names of the models of this family, for the error about other models.
        parts: Prompted classes of blocks, attentions and what else of timm's is replaced.
        blueprint: Arguments of :func:`pcvpt.create_model`; None for a model made otherwise.
        adapter: Description in the file that :func:`pcvpt.load_adapter` read, else None.
    """

    prompts: PromptBank
    mode: Mode
    blueprint: Blueprint | None = None
    adapter: Any = None
    _execution: Execution
    members: ClassVar[str]
    shares_dropout: ClassVar[bool] = False
    parts: ClassVar[tuple[type[nn.Module], ...]] = ()
    # timm's, of a type that depends on the family.
    blocks: Any
    patch_embed: Any
    head: Any
    forward_head: Any
    pretrained_cfg: Any

    @classmethod
    def prompt(cls, model: nn.Module, bank: PromptBank, mode: Mode, execution: Execution) -> Self:
        """Put ``bank`` into a timm model, in place, and freeze all but the prompts and the head."""
        model.__class__ = cls
        assert isinstance(model, cls)
        model.prompts, model.mode = bank, mode
        model.execution = execution
        if model.has_own_prompts:
            bank.shared_dropout = cls.shares_dropout
            for layer in range(len(bank.keep)):
                key, _ = model.keys_values_of(layer, bank.layer_values(layer)[:1])
                bank.heads.append((key.shape[0], key.shape[2]))
        if mode == "prefix":
            model.use_keys_values()
        for name, parameter in model.named_parameters():
            # A linear probe's prompts are empty: distributed training waits for unused parameters.
            trained = name.startswith(("prompts.", "head.")) and parameter.numel() > 0
            parameter.requires_grad_(trained)
        return model.train(model.training)

    @staticmethod
    def timm_blocks(model: Any) -> list[Any]:
        """Return the blocks of a timm model of this family, in order."""
        return [block for stage in getattr(model, "layers", [model]) for block in stage.blocks]

    @classmethod
    def widths(cls, model: Any) -> list[int]:
        """Return the embedding width of each block of a timm model of this family."""
        return [block.attn.proj.out_features for block in cls.timm_blocks(model)]

    @property
    def has_own_prompts(self) -> bool:
        """Whether each block has its own prompts, so that a prompt is one key and value."""
        return self.mode in ("deep", "prefix")

    def keys_values_of(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values ``(h, p, c)`` of prompts ``(p, d)``, as block ``layer`` does.

        They are tokens before the block's norm, whatever the form of the model's own prompts is.
        """
        block = self.blocks[layer]
        tokens = tokens[None].type_as(next(self.patch_embed.parameters()))
        key, value = block.attn.project_prompts(block.prompt_norm()(tokens))
        return key[0], value[0]

    def as_prompts(self, layer: int, tokens: Tensor, form: Form) -> Tensor:
        """Return tokens ``(p, d)`` as prompts of ``layer`` in a ``form``."""
        if form == "token":
            return tokens
        found = self.keys_values_of(layer, tokens)
        return torch.cat([part.transpose(0, 1).flatten(1) for part in found], dim=1)

    @torch.inference_mode(False)
    @torch.no_grad()
    def use_keys_values(self) -> Self:
        """Turn the prompts into parameters that are keys and values; return the model.

        The function stays the same, and the mask. Training then changes keys and values themselves
        (visual prefix tuning; Li and Liang, ACL 2021, https://arxiv.org/abs/2101.00190). They are
        new parameters: a new optimizer is needed.

        Raises:
            UsageError: If prompts flow through the blocks, are tokens of the sequence, or frozen.
        """
        bank = self.prompts
        bank.require_thawed()
        self.require_key_value()
        if bank.form == "token":
            found = [
                self.as_prompts(layer, bank.layer_values(layer), "key_value")
                for layer in range(len(bank.keep))
            ]
            bank.change_form("key_value")
            for layer, values in enumerate(found):
                bank.layer_values(layer).copy_(values)
        return self

    def why_tokens(self) -> str | None:
        """Return why the prompts can't be keys and values; None if they can."""
        if not self.has_own_prompts:
            what = f"mode {self.mode!r} has no prompts that could be keys and values"
            return f"{what}; use mode 'deep' or 'prefix'"
        if self._execution != "prefix":
            return (
                f"execution={self._execution!r} computes prompts as tokens; prompts that are keys "
                "and values need execution='prefix'"
            )
        if not self.prompts.tells_forms_apart:
            return (
                "the heads of this backbone are so narrow that a key and a value together are as "
                "wide as a token, and no file would tell them apart; use mode 'deep'"
            )
        return None

    def require_key_value(self) -> None:
        """Raise a UsageError unless the prompts can be keys and values."""
        if reason := self.why_tokens():
            raise UsageError(reason)

    def match_prompts(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Give the prompts the form that they have below ``prefix`` in a state dict.

        Raises:
            UsageError: If they are keys and values there, and can't be here.
        """
        if self.prompts.form_in(state, prefix) == "key_value":
            self.require_key_value()
        self.prompts.match(state, prefix)

    @property
    def execution(self) -> Execution:
        """How prompts are computed; assigning switches, the function stays the same.

        "prefix": as keys and values only where nothing else is read (all of Deep, the last block of
        Shallow), and only the pooled rows of the last block. In Swin, once for each image instead
        of once in each window. "tokens": the paper's literal form.
        """
        return self._execution

    @execution.setter
    def execution(self, execution: Execution) -> None:
        bank = self.prompts
        if execution != "prefix" and (bank.frozen or bank.form == "key_value"):
            how = "frozen" if bank.frozen else "keys and values"
            raise UsageError(f"execution={execution!r}: the prompts are {how}; use 'prefix'")
        self._execution = execution
        self._arrange_blocks()
        bank.why_tokens = self.why_tokens()

    def _arrange_blocks(self) -> None:
        """Tell each block where its prompts come from, enter and leave."""
        last, prefix, deep = len(self.blocks) - 1, self._execution == "prefix", self.has_own_prompts
        as_keys = prefix and deep
        attention_pooling = getattr(self, "attn_pool", None) is not None
        one_row = self.global_pool == "token" and not attention_pooling
        self._prompt_parts()
        for i, block in enumerate(self.blocks):
            block.attn.source = PromptSource(self.prompts, i if deep else 0)
            block.attn.norm_prompts = (block.prompt_norm(),) if as_keys else ()
            block.inserts = (deep or i == 0) and not as_keys and self.mode != "linear"
            block.removes = (deep or i == last) and not as_keys
            block.pooled_rows = 1 if one_row and i == last else None
            block.lean = prefix and i == last

    def _prompt_parts(self) -> None:
        """Give timm's parts their prompted classes, in place."""
        prompted = by_timm_class(self.parts)
        for part in list(self.modules()):
            part.__class__ = prompted.get(type(part), type(part))

    @override
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not x.shape[0]:  # which timm can't always reshape
            return self._logits(x.new_zeros(1, *x.shape[1:]), *args, **kwargs)[:0]
        with at_once(self, x.shape[0]) if is_trained_at_once(self) else nullcontext():
            return self._logits(x, *args, **kwargs)

    def _logits(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return logits by the rows that the head reads; prompts may flow on beside them."""
        features = super().forward_features(x, *args, **kwargs)  # type: ignore[misc]
        logits: Tensor = self.forward_head(features)
        return logits

    def forward_features(self, *args: Any, **kwargs: Any) -> Any:
        """Return the features of all tokens of the image; see timm."""
        with whole_images(self):
            return super().forward_features(*args, **kwargs)  # type: ignore[misc]

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> Any:
        """Return the features of all tokens of the image after some blocks, too; see timm."""
        with whole_images(self):
            return super().forward_intermediates(*args, **kwargs)  # type: ignore[misc]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head; see timm."""
        super().reset_classifier(num_classes, global_pool)  # type: ignore[misc]
        self.execution = self._execution  # the rows that are pooled may be others

    @torch.inference_mode(False)  # whose tensors would be good for nothing else
    @torch.no_grad()
    def freeze_prompts(self) -> Self:
        """Make the model one for serving, in place and irreversibly; return it.

        The function stays the same. Condensed prompts are removed from the bank. Where prompts are
        keys and values only (all of Deep), these are computed once and kept as buffers, so that a
        forward pass only attends to them. A frozen model can't be trained; keep a copy for that.
        """
        if not self.prompts.frozen:
            self.execution = "prefix"
            self.eval()
            self.prompts.drop_masked()
            like = next(self.patch_embed.parameters())[:1]  # for the precision
            for attn in (block.attn for block in self.blocks if self.mode != "linear"):
                attn.freeze(attn.prompt_keys_values(attn.entering_prompts(like), like))
            self.requires_grad_(False)
            self.prompts.frozen = True
        return self

    @override
    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Prompts alone would be loaded without their cached keys and values.
        cached = any(name.endswith(".frozen_k") for name, _ in self.named_buffers())
        if cached and not any(name.endswith(".frozen_k") for name in state_dict):
            self.prompts.require_thawed()
        self.match_prompts(state_dict, f"{prefix}prompts.")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @override
    def train(self, mode: bool = True) -> Self:
        if mode:
            self.prompts.require_thawed()
        nn.Module.train(self, False)
        self.training = mode
        for name in ("prompts", "head", "head_drop"):  # Swin's dropout is in the head
            if name in self._modules:
                self.get_submodule(name).train(mode)
        return self
