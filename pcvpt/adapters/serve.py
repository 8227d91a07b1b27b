"""One backbone that serves the adapters of many tasks, of different tasks in one batch.

A prompt of Deep is a key and a value that no image changes, so each image of a batch can attend to
the prompts of its own task, and pass its own head. Tasks with fewer prompts in a block are padded
by columns of the bias -inf, which have no weight in the attention.

Axes: b batch, p prompts (of the task that has the most), h heads, c head width.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from typing_extensions import override

from pcvpt.adapters.adapter import Adapter, Fault
from pcvpt.adapters.file import read_adapter
from pcvpt.adapters.hub import local_file
from pcvpt.adapters.load import load_adapter
from pcvpt.adapters.tensors import HEAD, KEEP, WEIGHT, check_fit, model_arguments, prompt_runs
from pcvpt.errors import UsageError
from pcvpt.models.prompt_keys_values import PromptSource
from pcvpt.models.transformer import PromptedTransformer

Paths = str | Path | Sequence[str | Path]

# Keys, values and bias of the prompts in each block, for the batch of the running forward pass.
_BATCH: ContextVar[list[tuple[Tensor, Tensor, Tensor | None]]] = ContextVar("_BATCH")
_SAME = ("backbone", "fingerprint", "dtype", "timm_kwargs")


def serve(
    adapters: Sequence[Paths],
    pretrained: bool | str | Path = True,
    backbone: str | None = None,
    **timm_kwargs: Any,
) -> "TaskServer":
    """Build one backbone that serves several adapters.

    Args:
        adapters: File of the adapter of each task, or its ``hf://OWNER/NAME@REVISION`` on the hub,
            at least one; or those of several seeds of a task, which are served as an ensemble. The
            modes "deep" and "prefix" can be served, merged or not. In "shallow" prompts flow
            through the blocks, so that they depend on the image.
        pretrained: See :func:`pcvpt.load_adapter`, as for ``backbone`` and ``timm_kwargs``.

    Raises:
        UsageError: If an adapter can't be loaded, is of another backbone than the first one, or
            has no prompts that are keys and values. The message names the file.
    """
    if not adapters:
        raise UsageError("serve() needs at least one adapter; give its file")
    first = _paths(adapters[0])[0]
    _require_keys_values(first, read_adapter(first)[0])
    server = TaskServer(load_adapter(first, pretrained, backbone, **timm_kwargs))
    for each in adapters:
        server.add(each)
    return server


class TaskServer(nn.Module):
    """A frozen backbone with the prompts and heads of many tasks, numbered from 0.

    Tasks may be added and removed while other threads predict.

    Args:
        model: Model of :func:`pcvpt.load_adapter`, which is changed.
    """

    def __init__(self, model: PromptedTransformer) -> None:
        super().__init__()
        self.backbone = model.freeze_prompts()
        model.reset_classifier(0)  # which gives features
        self._like: Adapter = model.adapter
        for layer, block in enumerate(model.blocks):
            block.attn.source = _TaskPrompts(model.prompts, layer)
        self.tasks = nn.ModuleDict()
        self._numbers = count()

    @torch.inference_mode(False)
    @torch.no_grad()
    def add(self, adapter: Paths) -> int:
        """Add the task of an adapter file, or of those of several seeds; return its number.

        Errors are those of :func:`serve`.
        """
        paths = _paths(adapter)
        members = [self._read(path) for path in paths]
        for path, member in zip(paths, members, strict=True):
            names = [m.adapter.class_names or len(m.head_bias) for m in (members[0], member)]
            if names[0] != names[1]:
                raise UsageError(f"{path}: has other classes than {paths[0]}; serve it apart")
        number = next(self._numbers)
        like = next(self.backbone.patch_embed.parameters())
        self.tasks[str(number)] = nn.ModuleList(members).to(like)
        return number

    def remove(self, task: int) -> None:
        """Remove a task. The others keep their numbers."""
        self._members(task)
        del self.tasks[str(task)]

    def adapter(self, task: int) -> Adapter:
        """Return the description of a task: ``class_names``, ``preprocessing``, ``provenance``."""
        return self._members(task)[0].adapter

    @override
    @torch.no_grad()
    def forward(self, images: Tensor, task: Sequence[int] | Tensor) -> Tensor:
        """Return the logits ``(b, classes)`` of images of any tasks.

        They are those of the model of each task alone. Columns beyond the classes of a task are
        -inf. For an ensemble they are logarithms of the mean probability.

        Args:
            images: Images ``(b, 3, h, w)``, each after the preprocessing of its task.
            task: Number of the task of each image ``(b,)``. A UsageError is raised for others.
        """
        numbers = torch.as_tensor(task).tolist()
        if not isinstance(numbers, list) or len(numbers) != len(images):
            raise UsageError(f"task has {numbers!r:.60}; give one number for each image")
        of_image = [self._members(number) for number in numbers]
        if not of_image:
            return images.new_empty(0, 0)
        rows = [row for row, members in enumerate(of_image) for _ in members]
        members = [member for own in of_image for member in own]
        places = {member: place for place, member in enumerate(dict.fromkeys(members))}
        index = torch.tensor([places[member] for member in members], device=images.device)
        layers = range(len(self.backbone.blocks))
        held = _BATCH.set([_joined(list(places), index, layer) for layer in layers])
        try:
            features: Tensor = self.backbone(images if len(rows) == len(images) else images[rows])
        finally:
            _BATCH.reset(held)
        most = max(len(member.head_bias) for member in places)
        logits: Tensor = features.new_full((len(rows), most), float("-inf"))
        for member in places:
            own = [row for row, other in enumerate(members) if other is member]
            head = member.head_weight, member.head_bias
            logits[own, : len(member.head_bias)] = F.linear(features[own], *head).type_as(logits)
        if len(rows) == len(images):
            return logits
        parts: Sequence[Tensor] = logits.split([len(own) for own in of_image])
        return torch.stack([part[0] if len(part) == 1 else _ensemble(part) for part in parts])

    def _members(self, task: int) -> "list[_Member]":
        try:
            return list(cast(Any, self.tasks[str(task)]))
        except KeyError as error:
            known = ", ".join(self.tasks) or "none"
            raise UsageError(f"there is no task {task!r}; there are: {known}") from error

    def _read(self, path: Path) -> "_Member":
        adapter, tensors = read_adapter(path)
        _require_keys_values(path, adapter)
        for name in _SAME:
            own, other = getattr(self._like, name), getattr(adapter, name)
            if own != other:
                raise UsageError(
                    f"{path}: trained on another backbone: {name} is {other}, that of the first "
                    f"adapter is {own}; serve it apart"
                )
        try:
            model_arguments(adapter, tensors)
            check_fit(adapter, tensors, self.backbone)
        except Fault as error:
            raise UsageError(f"{path}: {error}") from error
        return _Member(adapter, tensors, self.backbone)


class _TaskPrompts(PromptSource):
    """Prompts of one block, different for the images of a batch."""

    @override
    def frozen(self) -> tuple[Tensor, Tensor]:
        return _BATCH.get()[self.layer][:2]

    @override
    def bias(self) -> tuple[Tensor | None, None]:
        return _BATCH.get()[self.layer][2], None


class _Member(nn.Module):
    """One adapter: keys and values ``(p, 2, h, c)`` of each block, their bias, and the head."""

    head_weight: Tensor
    head_bias: Tensor

    def __init__(
        self, adapter: Adapter, tensors: dict[str, Tensor], model: PromptedTransformer
    ) -> None:
        super().__init__()
        self.adapter, self.is_merged = adapter, WEIGHT in tensors
        for name in HEAD:
            self.register_buffer(name.replace(".", "_"), tensors[name])
        kept = tensors[KEEP].sum(1).tolist()
        bias = tensors.get(WEIGHT, torch.zeros(sum(kept), 1)).split(kept)
        for name, (layers, _) in prompt_runs(model).items():
            for layer, part in enumerate(tensors[name].split(kept[layers]), layers.start):
                heads = model.prompts.heads[layer][0]
                if adapter.form == "token":
                    part = model.as_prompts(layer, part.to(model.prompts.device), "key_value")
                self.register_buffer(f"keys_values_{layer}", part.unflatten(1, (2, heads, -1)))
                self.register_buffer(f"bias_{layer}", bias[layer][:, :heads])


def _joined(
    members: Sequence[_Member], index: Tensor, layer: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return keys and values ``(b or 1, h, p, c)``, and their bias ``(b or 1, h or 1, p)``."""
    found = [member.get_buffer(f"keys_values_{layer}") for member in members]
    joined, bias = pad_sequence(found, batch_first=True), None
    if len({len(part) for part in found}) > 1 or any(member.is_merged for member in members):
        parts = [member.get_buffer(f"bias_{layer}") for member in members]
        heads = max(part.shape[1] for part in parts)
        parts = [part.expand(-1, heads) for part in parts]
        bias = pad_sequence(parts, batch_first=True, padding_value=float("-inf")).mT
    if len(members) > 1:
        joined, bias = joined[index], None if bias is None else bias[index]
    k, v = joined.permute(2, 0, 3, 1, 4)
    return k, v, bias


def _ensemble(logits: Tensor) -> Tensor:
    """Return the logarithm of the mean probability ``(classes,)`` of ``(members, classes)``."""
    return logits.log_softmax(1).logsumexp(0) - torch.tensor(len(logits)).log().to(logits)


def _paths(given: Paths) -> list[Path]:
    each = [given] if isinstance(given, (str, Path)) else given
    paths = [local_file(path) for path in each]
    if not paths:
        raise UsageError("a task needs at least one adapter; give its file")
    return paths


def _require_keys_values(path: Path, adapter: Adapter) -> None:
    if adapter.mode not in ("deep", "prefix") or adapter.pool_prompts:
        what = "pool_prompts=True" if adapter.pool_prompts else f"mode {adapter.mode!r}"
        raise UsageError(
            f"{path}: can't be served with others: {what} has no prompts that are keys and values "
            "only; load it alone by load_adapter"
        )
