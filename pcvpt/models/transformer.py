"""What all plain transformers (one width, one sequence) share: blocks and models with prompts.

A family mixes these classes into timm's own, names the prompted class of each of timm's parts, and
defines how a block computes only some of its rows. Parameters keep timm's names.

Axes: b batch, n tokens, p prompts, d width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from pcvpt.errors import UsageError
from pcvpt.models.attention import PromptedAttention
from pcvpt.models.image_features import ImageFeatures
from pcvpt.models.prompt_bank import PromptBank
from pcvpt.models.prompt_keys_values import PromptSource

Mode = Literal["deep", "prefix", "shallow", "linear"]
Execution = Literal["prefix", "tokens"]


@dataclass(frozen=True)
class Blueprint:
    """Arguments of :func:`pcvpt.create_model` that can't be read from the model itself.

    Attributes:
        backbone: timm model name.
        num_prompts: Number of prompts per layer before condensing.
        pretrained: Source of the backbone's weights; see :func:`pcvpt.create_model`.
        timm_kwargs: Further arguments of ``timm.create_model``.
    """

    backbone: str
    num_prompts: int
    pretrained: bool | str | Path
    timm_kwargs: Mapping[str, Any]


class PromptedBlock(nn.Module):
    """A timm block that may insert prompt tokens, drop them, and compute only some rows.

    Attributes:
        source: Prompts of the block; None if it has none.
        inserts: Append the prompts to the sequence before the block.
        removes: Drop the rows of the prompts from the block's output.
        pooled_rows: Number of leading tokens that the pooling reads, in the last block. None in
            other blocks, or if all tokens are pooled.
        lean: Compute no rows that would be dropped.
    """

    source: PromptSource | None
    inserts: bool
    removes: bool
    pooled_rows: int | None
    lean: bool
    # timm's, of types that depend on the family.
    attn: Any
    mlp: Any
    norm1: nn.Module
    norm2: Any

    @override
    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        **positions: Tensor | None,
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise NotImplementedError("prompted blocks take no attention mask")
        if self.inserts and self.source is not None:
            prompts = self.source.values(x).expand(x.shape[0], -1, -1)
            x = torch.cat([x, prompts], dim=1)
        rows = x.shape[1]
        if self.removes and self.source is not None:
            rows -= self.source.count()
        if not self.lean:
            whole: Tensor = super().forward(x, **positions)
            return whole[:, :rows]
        return self._leading(x, rows if self.pooled_rows is None else self.pooled_rows, positions)

    def _leading(self, x: Tensor, rows: int, positions: dict[str, Tensor | None]) -> Tensor:
        """Return the block's output of the first ``rows`` tokens, computing no others."""
        raise NotImplementedError

    def prompt_norm(self) -> nn.Module:
        """Return the norm that prompts pass before the attention, as tokens do."""
        return self.norm1


class PromptedTransformer(ImageFeatures):
    """A timm transformer whose blocks attend to prompts.

    Everything of timm's stays: parameter names, ``forward_features``, pooling, head. The backbone
    is frozen and always in evaluation mode; ``train()`` reaches only the prompts and the head.

    Attributes:
        prompts: Prompts with their mask, a :class:`~pcvpt.models.prompt_bank.PromptBank`.
        mode: "deep" (every block has its own prompts), "prefix" (they are keys and values),
            "shallow" (prompts enter once), or "linear" (no prompts: a linear probe).
        members: Common names of the models of this family, for the error about other models.
        parts: Prompted class of each of timm's block and attention classes.
        blueprint: Arguments of :func:`pcvpt.create_model`; None for a model made otherwise.
        adapter: Description in the file that :func:`pcvpt.load_adapter` read, else None.
    """

    prompts: PromptBank
    mode: Mode
    blueprint: Blueprint | None = None
    adapter: Any = None
    _execution: Execution
    members: ClassVar[str]
    parts: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {}
    # timm's, of a type that depends on the family.
    blocks: Any
    patch_embed: Any
    head: Any
    pretrained_cfg: Any

    @classmethod
    def prompt(cls, model: nn.Module, bank: PromptBank, mode: Mode, execution: Execution) -> Self:
        """Put ``bank`` into a timm model, in place, and freeze all but the prompts and the head.

        Raises:
            UsageError: If a block of the model is of a class that can't be prompted.
        """
        cls.require_parts(model)
        model.__class__ = cls
        assert isinstance(model, cls)
        model.prompts, model.mode = bank, mode
        model.execution = execution
        if model.has_own_prompts:
            bank.heads = [model._heads_of(layer) for layer in range(len(bank.keep))]
        if mode == "prefix":
            model.use_keys_values()
        for name, parameter in model.named_parameters():
            # A linear probe's prompts are empty: distributed training waits for unused parameters.
            trained = name.startswith(("prompts.", "head.")) and parameter.numel() > 0
            parameter.requires_grad_(trained)
        return model.train(model.training)

    @classmethod
    def require_parts(cls, model: nn.Module) -> None:
        """Raise a UsageError unless blocks and attentions are of classes that can be prompted."""
        for block in cls.timm_blocks(model):
            for part in (block, block.attn) if hasattr(block, "attn") else (block,):
                # A subclass may have another forward, which prompting would drop.
                if type(part) not in (*cls.parts, *cls.parts.values()):
                    known = ", ".join(part.__name__ for part in cls.parts)
                    raise UsageError(
                        f"blocks with {type(part).__name__} are not supported; supported: timm's "
                        f"{known} of {cls.__name__.removeprefix('Prompted')}"
                    )

    @staticmethod
    def timm_blocks(model: Any) -> list[Any]:
        """Return the blocks of a timm model of this family, in order."""
        return list(model.blocks)

    @classmethod
    def widths(cls, model: Any) -> list[int]:
        """Return the embedding width of each block of a timm model of this family."""
        return [model.embed_dim] * len(cls.timm_blocks(model))

    @property
    def has_own_prompts(self) -> bool:
        """Whether each block has its own prompts, so that a prompt is one key and value."""
        return self.mode in ("deep", "prefix")

    def _heads_of(self, layer: int) -> tuple[int, int]:
        """Return the number of heads of a block, and the width of one."""
        shape = self.keys_values_of(layer, self.prompts.layer_values(layer)[:1])[0].shape
        return shape[0], shape[2]

    def keys_values_of(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values ``(h, p, c)`` of prompts ``(p, d)``, as block ``layer`` does.

        They are tokens before the block's norm, whatever the form of the model's own prompts is.
        """
        block = self.blocks[layer]
        tokens = tokens[None].type_as(next(self.patch_embed.parameters()))
        key, value = block.attn.project_prompts(block.prompt_norm()(tokens))
        return key[0], value[0]

    def as_prompts(self, layer: int, tokens: Tensor) -> Tensor:
        """Return tokens ``(p, d)`` in the form of the prompts of ``layer``."""
        if self.prompts.form == "token":
            return tokens
        return _flat(self.keys_values_of(layer, tokens))

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
                _flat(self.keys_values_of(layer, bank.layer_values(layer)))
                for layer in range(len(bank.keep))
            ]
            keep, weight, assignment = bank.keep.clone(), bank.log_weight, bank.assignment
            bank.reset_form("key_value")
            for layer, values in enumerate(found):
                bank.layer_values(layer).copy_(values)
            bank.log_weight, bank.assignment = weight, assignment
            bank.apply_mask(list(keep))
        return self

    @property
    def takes_keys_values(self) -> bool:
        """Whether the prompts can be keys and values."""
        own = self.has_own_prompts and self._execution == "prefix"
        return own and self.prompts.tells_forms_apart

    def require_key_value(self) -> None:
        """Raise a UsageError unless the prompts can be keys and values."""
        if not self.has_own_prompts:
            raise UsageError(
                f"mode {self.mode!r} has no prompts that could be keys and values; they are "
                "tokens that flow through the blocks; use mode 'deep' or 'prefix'"
                if self.mode == "shallow"
                else "mode 'linear' has no prompts"
            )
        if self._execution != "prefix":
            raise UsageError(
                f"execution={self._execution!r} computes prompts as tokens; prompts that are keys "
                "and values need execution='prefix'"
            )
        if not self.prompts.tells_forms_apart:
            raise UsageError(
                "the heads of this backbone are so narrow that a key and a value together are as "
                "wide as a token, and no file would tell them apart; use mode 'deep'"
            )

    def match_prompts(self, state: Mapping[str, Tensor]) -> None:
        """Give the prompts the form that they have in ``state``, a state dict of their bank.

        Raises:
            UsageError: If they are keys and values there, and can't be here.
        """
        if self.prompts.form_in(state) == "key_value":
            self.require_key_value()
        self.prompts.match(state)

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
        if self.frozen and execution != "prefix":
            raise UsageError(f"execution={execution!r}: the prompts are frozen as keys and values")
        if self.prompts.form == "key_value" and execution != "prefix":
            raise UsageError(
                f"execution={execution!r}: the prompts are keys and values; use 'prefix'"
            )
        self._execution = execution
        self._arrange_blocks()

    def _arrange_blocks(self) -> None:
        """Tell each block where its prompts come from, enter and leave."""
        last, prefix, deep = len(self.blocks) - 1, self._execution == "prefix", self.has_own_prompts
        as_keys = prefix and deep
        attention_pooling = getattr(self, "attn_pool", None) is not None
        one_row = self.global_pool == "token" and not attention_pooling
        for i, block in enumerate(self.blocks):
            source = PromptSource(self.prompts, i if deep else 0)
            for part in (block, block.attn):
                part.__class__ = self.parts.get(type(part), type(part))
            assert isinstance(block, PromptedBlock)
            attention = block.attn
            assert isinstance(attention, PromptedAttention)
            attention.source = block.source = None if self.mode == "linear" else source
            attention.norm_prompts = (block.prompt_norm(),) if as_keys else ()
            block.inserts = (deep or i == 0) and not as_keys
            block.removes = (deep or i == last) and not as_keys
            block.pooled_rows = 1 if one_row and i == last else None
            block.lean = prefix and i == last

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head; see timm."""
        super().reset_classifier(num_classes, global_pool)  # type: ignore[misc]
        self.execution = self._execution  # the rows that are pooled may be others

    @property
    def frozen(self) -> bool:
        """Whether :meth:`freeze_prompts` was called."""
        return self.prompts.frozen

    @torch.inference_mode(False)  # whose tensors would be good for nothing else
    @torch.no_grad()
    def freeze_prompts(self) -> Self:
        """Make the model one for serving, in place and irreversibly; return it.

        The function stays the same. Condensed prompts are removed from the bank. Where prompts are
        keys and values only (all of Deep), these are computed once and kept as buffers, so that a
        forward pass only attends to them. A frozen model can't be trained; keep a copy for that.
        """
        if not self.frozen:
            self.execution = "prefix"
            self.eval()
            self.prompts.drop_masked()
            self._freeze_blocks()
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
        own = f"{prefix}prompts."
        self.match_prompts(
            {k.removeprefix(own): v for k, v in state_dict.items() if k.startswith(own)}
        )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _freeze_blocks(self) -> None:
        like = next(self.patch_embed.parameters())[:1]  # for the precision
        for block in self.blocks:
            prompts = block.attn.entering_prompts(like)
            block.attn.freeze(block.attn.prompt_keys_values(prompts, like))

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


def _flat(keys_values: tuple[Tensor, Tensor]) -> Tensor:
    """Return keys and values ``(h, p, c)`` as parameters ``(p, 2hc)``."""
    return torch.cat([part.transpose(0, 1).flatten(1) for part in keys_values], dim=1)
