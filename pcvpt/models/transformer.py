"""What all plain transformers (one width, one sequence) share: blocks and models with prompts.

A family mixes these classes into timm's own, names the prompted class of each of timm's parts, and
says how a block computes only some of its rows. Parameters keep timm's names.

Axes: b batch, n tokens, p prompts, d width.
"""

from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from pcvpt.errors import UsageError
from pcvpt.models.attention import PromptedAttention, PromptSource
from pcvpt.models.blueprint import Blueprint
from pcvpt.models.prompt_bank import PromptBank

Mode = Literal["deep", "shallow", "linear"]
Execution = Literal["prefix", "tokens"]


class PromptedBlock(nn.Module):
    """A timm block that may insert prompt tokens, drop them, and compute only some rows.

    Attributes:
        source: the block's prompts, None when it has none.
        inserts: append the prompts to the sequence before the block.
        removes: drop the prompts' rows from the block's output.
        pooled_rows: compute the output of this many leading tokens only: the rows that are
            pooled, when this is the last block. None: of all tokens.
        lean: never compute rows that would be dropped.
    """

    source: PromptSource | None
    inserts: bool
    removes: bool
    pooled_rows: int | None
    lean: bool
    # timm's, of types that depend on the family.
    attn: Any
    mlp: Any
    norm1: Any
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
            x = torch.cat([x, self.source.tokens(x.shape[0])], dim=1)
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

    def _prompt_norm(self) -> nn.Module:
        """Return what prompts pass on their way to the attention, as tokens do."""
        norm: nn.Module = self.norm1
        return norm


class PromptedTransformer(nn.Module):
    """A timm transformer whose blocks attend to prompts.

    Everything of timm's stays: parameter names, ``forward_features``, pooling, head. The backbone
    is frozen and always in evaluation mode; ``train()`` reaches only the prompts and the head.

    Attributes:
        prompts: the :class:`~pcvpt.models.prompt_bank.PromptBank`.
        mode: "deep" (prompts of their own in every block), "shallow" (prompts enter once), or
            "linear" (no prompts: a linear probe).
        parts: for each of timm's block and attention classes, the prompted one.
        blueprint: what :func:`pcvpt.create_model` was asked for.
        adapter: what the file said that :func:`pcvpt.load_adapter` read, else None.
    """

    prompts: PromptBank
    mode: Mode
    blueprint: Blueprint | None = None
    adapter: Any = None
    _execution: Execution
    parts: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {}
    # timm's, of a type that depends on the family.
    blocks: Any
    patch_embed: Any
    head: Any
    head_drop: Any
    pretrained_cfg: Any

    @property
    def execution(self) -> Execution:
        """How prompts are computed; assigning switches, the function stays the same.

        "prefix": keys and values only where nothing else is read (all of Deep, the last block of
        Shallow), and only the pooled rows of the last block. "tokens": the paper's literal form.
        """
        return self._execution

    @execution.setter
    def execution(self, execution: Execution) -> None:
        self._require_thawed(execution)
        last = len(self.blocks) - 1
        prefix = execution == "prefix"
        for i, block in enumerate(self.blocks):
            source = {
                "deep": PromptSource(self.prompts, i),
                "shallow": PromptSource(self.prompts, 0),
                "linear": None,
            }[self.mode]
            enters = self.mode == "deep" or i == 0
            leaves = self.mode == "deep" or i == last
            as_keys = prefix and self.mode == "deep"
            for part in (block, block.attn):
                part.__class__ = self.parts.get(type(part), type(part))
            assert isinstance(block, PromptedBlock)
            attention = block.attn
            assert isinstance(attention, PromptedAttention)
            attention.source = source
            attention.norm_prompts = (block._prompt_norm(),) if as_keys else ()
            block.source = source
            block.inserts = enters and not as_keys
            block.removes = leaves and not as_keys
            block.pooled_rows = self._pooled_rows() if i == last else None
            block.lean = prefix and i == last
        self._execution = execution

    def _pooled_rows(self) -> int | None:
        """Return how many leading tokens the pooling reads, None for all."""
        attention_pooling = getattr(self, "attn_pool", None) is not None
        return 1 if self.global_pool == "token" and not attention_pooling else None

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head on; see timm."""
        super().reset_classifier(num_classes, global_pool)  # type: ignore[misc]
        self.execution = self._execution  # the rows that are pooled may be others

    @property
    def frozen(self) -> bool:
        """Whether :meth:`freeze_prompts` was called."""
        return self.prompts.frozen

    @torch.inference_mode(False)  # whose tensors would be good for nothing else
    @torch.no_grad()
    def freeze_prompts(self) -> Self:
        """Make the model one for serving, in place and for good; return it.

        The function stays the same. Condensed prompts are removed from the bank; where prompts are
        keys and values only (all of Deep), these are computed once and kept as buffers, so that a
        forward pass does for prompts nothing but attend to them. Nothing is trained afterwards.
        To go on training, keep a copy.
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
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _freeze_blocks(self) -> None:
        for block in self.blocks:
            parts = block.attn.prompt_parts(1)
            if parts is not None:
                block.attn.freeze(*parts)

    def _require_thawed(self, execution: Execution) -> None:
        if self.frozen and execution != "prefix":
            raise UsageError(f"execution={execution!r}: the prompts are frozen as keys and values")

    @override
    def train(self, mode: bool = True) -> Self:
        if mode:
            self.prompts.require_thawed()
        nn.Module.train(self, False)
        self.training = mode
        for trained in self._trained_parts():
            trained.train(mode)
        return self

    def _trained_parts(self) -> tuple[nn.Module, ...]:
        return self.prompts, self.head_drop, self.head


Prompted = TypeVar("Prompted", bound=PromptedTransformer)


def prompt_plain(
    model: nn.Module,
    prompted: type[Prompted],
    bank: PromptBank,
    mode: Mode,
    execution: Execution,
) -> Prompted:
    """Put ``bank`` into ``model``, in place, and freeze everything but the prompts and the head.

    Args:
        model: a timm model of known parts.
        prompted: the prompted class of its family.
        bank: the prompts.
        mode: see :func:`pcvpt.create_model`.
        execution: see :func:`pcvpt.create_model`.
    """
    require_parts(model, prompted)
    model.__class__ = prompted
    assert isinstance(model, prompted)
    model.prompts = bank
    model.mode = mode
    model.execution = execution
    for name, parameter in model.named_parameters():
        # A linear probe's prompts are empty: distributed training waits for what is never used.
        trained = name.startswith(("prompts.", "head.")) and parameter.numel() > 0
        parameter.requires_grad_(trained)
    return model.train(model.training)


def require_parts(model: nn.Module, prompted: type[PromptedTransformer]) -> None:
    """Raise a UsageError unless blocks and attentions are of classes that can be prompted."""
    blocks: Any = model.blocks
    for block in blocks:
        for part in (block, block.attn) if hasattr(block, "attn") else (block,):
            # A subclass has a forward of its own, which prompting would drop.
            if type(part) not in (*prompted.parts, *prompted.parts.values()):
                known = ", ".join(part.__name__ for part in prompted.parts)
                raise UsageError(
                    f"blocks with {type(part).__name__} are not supported; supported: timm's "
                    f"{known} of {prompted.__name__.removeprefix('Prompted')}"
                )
