"""Tensors of an adapter, and the model that they fit: kept prompts in a row, the mask, the head.

Axes: l layers, p prompts per layer, d width.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from pcvpt.adapters.adapter import DTYPES, Adapter, Fault, shown
from pcvpt.models.factory import create_model, physical_memory
from pcvpt.models.prompt_bank import Form
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.weights.files import first_line
from pcvpt.models.weights.fingerprint import backbone_tensors

KEEP, HEAD = "prompts.keep", ("head.weight", "head.bias")
WEIGHT = "prompts.log_weight"
_MOST_PATCHES = 2**18  # of an image


def pack(model: PromptedTransformer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an adapter of ``model``, on the CPU, from its trained state dict.

    Those of the prompts are ``(kept, d)``, layer after layer, one for each run of layers of one
    width. ``prompts.keep`` is the mask ``(l, p)``, and ``prompts.log_weight`` has the biases of
    merged prompts ``(kept, h or 1)``. A Fault is raised if one is missing, or not finite.
    """
    own, head, packed = model.state_dict(), cast(Any, model).get_classifier(), {}
    prefix = next(name for name, part in model.named_modules() if part is head)
    weight = (WEIGHT,) if WEIGHT in own or WEIGHT in state else ()
    for name in (KEEP, *HEAD, *prompt_runs(model), *weight):
        source = name.replace("head", prefix) if name in HEAD else name
        if source not in state or source not in own or state[source].shape != own[source].shape:
            raise Fault(f"{source} is missing, or not of the shape of the model's")
        packed[name] = state[source].detach().cpu()
    for name, (layers, _) in prompt_runs(model).items():
        packed[name] = packed[name][packed[KEEP][layers]]
    for name in weight:
        packed[name] = packed[name].transpose(1, 2)[packed[KEEP]]
    _check_values(packed)
    return {name: tensor.contiguous() for name, tensor in packed.items()}


def model_arguments(adapter: Adapter, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of :func:`pcvpt.create_model`; raise a Fault if tensors fit no model."""
    for name, axes in {KEEP: 2, "head.weight": 2, "head.bias": 1}.items():
        if name not in tensors or tensors[name].ndim != axes:
            raise Fault(f"{name} is missing, or no tensor of {axes} axes")
    _check_values(tensors)
    keep = tensors[KEEP]
    prompts = int(keep.sum(1).max()) if keep.numel() else 0
    return {
        "backbone": adapter.backbone,
        "num_classes": len(tensors["head.weight"]),
        "num_prompts": prompts if adapter.mode == "linear" else max(1, prompts),
        "mode": adapter.mode,
        "execution": adapter.execution,
        "pool_prompts": adapter.pool_prompts,
        **adapter.timm_kwargs,
    }


def lay_out(arguments: dict[str, Any], form: Form) -> PromptedTransformer:
    """Return the model of ``arguments``, and of that form, with tensors that have no contents.

    A Fault is raised if it can't be built, or would not fit into memory.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            model = create_model(pretrained=False, **arguments).eval()
            if form == "key_value":
                model.use_keys_values()
            # What can be built need not run, such as heads of half a column.
            model(torch.empty(1, model.patch_embed.proj.in_channels, *model.patch_embed.img_size))
    except Exception as error:  # of a foreign description: timm raises anything
        reason = shown(first_line(error))
        raise Fault(f"the model it describes can't be built ({reason})") from error
    needed = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    patches = model.patch_embed.num_patches or 0
    if needed > physical_memory() or patches > _MOST_PATCHES:
        raise Fault(
            f"the model it describes takes {needed / 1e9:,.1f} GB and {patches:,} patches of an "
            "image, too much for this machine"
        )
    return model


def check_same_layout(model: PromptedTransformer, layout: PromptedTransformer) -> None:
    """Raise a Fault unless the backbone of ``model`` has the layout of that of ``layout``."""
    shapes, other = (
        {(name, tuple(tensor.shape)) for name, tensor in backbone_tensors(each).items()}
        for each in (model, layout)
    )
    pooling = [getattr(each, "global_pool", None) for each in (model, layout)]
    if shapes != other or pooling[0] != pooling[1]:
        names = sorted(name for name, _ in shapes ^ other) or ["global_pool"]
        raise Fault(
            f"the model was changed after create_model, in {shown(names)}; give create_model "
            "arguments that make it so"
        )


def check_fit(adapter: Adapter, tensors: Mapping[str, Tensor], layout: PromptedTransformer) -> None:
    """Raise a Fault unless tensors, class names and preprocessing fit the model ``layout``."""
    keep, layers = tensors[KEEP], len(layout.prompts.keep)
    if len(keep) != layers:
        raise Fault(f"{KEEP} has {len(keep)} layers, the backbone {layers}")
    classes, width = len(tensors["head.weight"]), cast(Any, layout).head_hidden_size
    wanted: dict[str, tuple[int, ...]] = {"head.weight": (classes, width), "head.bias": (classes,)}
    widths = layout.prompts.widths(adapter.form)
    for name, (run, values) in prompt_runs(layout).items():
        wanted[name] = (int(keep[run].sum()), (widths or [values.shape[2]])[run.start])
    if WEIGHT in tensors:
        most = max((heads for heads, _ in layout.prompts.heads), default=1)
        heads = tensors[WEIGHT].shape[-1] if tensors[WEIGHT].ndim == 2 else 0
        allowed = (1,) if adapter.form == "token" else (1, most)
        wanted[WEIGHT] = (int(keep.sum()), heads if heads in allowed else most)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != KEEP}
    if found != wanted:
        raise Fault(f"its tensors are {found}, the backbone needs {wanted}")
    names, steps = adapter.class_names, adapter.preprocessing
    if names is not None and len(names) != classes:
        raise Fault(f"{len(names)} class names for a head of {classes} classes")
    size = layout.patch_embed.img_size
    if steps is not None and size is not None and steps.size != tuple(size):
        raise Fault(f"preprocessing to {steps.size} for a model of images of {tuple(size)} pixels")


@torch.no_grad()
def set_tensors(model: PromptedTransformer, tensors: Mapping[str, Tensor]) -> None:
    """Set prompts, mask and head of ``model`` to ``tensors``, in the model's precision."""
    bank, keep = model.prompts, tensors[KEEP]
    front = torch.arange(bank.keep.shape[1]) < keep.sum(1, keepdim=True)
    for name, (layers, values) in prompt_runs(model).items():
        values.zero_()
        values[front[layers]] = tensors[name].to(values.dtype)
    bank.apply_mask(list(front))
    if WEIGHT in tensors:
        weight = tensors[WEIGHT].new_zeros(*front.shape, tensors[WEIGHT].shape[1])
        weight[front] = tensors[WEIGHT]
        bank.log_weight = weight.transpose(1, 2).contiguous().to(bank.dtype)
    for name, parameter in cast(Any, model).get_classifier().named_parameters():
        parameter.copy_(tensors[f"head.{name}"])


def prompt_runs(model: PromptedTransformer) -> dict[str, tuple[slice, nn.Parameter]]:
    """Return the runs of layers of one width, see ``PromptBank.runs``, by the adapter's names."""
    names = (f"prompts.{name}" for name, _ in model.prompts.named_parameters())
    return dict(zip(names, model.prompts.runs(), strict=True))


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name == KEEP:
            # A byte that is neither 0 nor 1 is a mask of no meaning.
            if tensor.dtype is not torch.bool or bool((tensor.view(torch.uint8) > 1).any()):
                raise Fault(f"{name} is not a mask")
        elif tensor.dtype not in DTYPES.values() or not bool(tensor.isfinite().all()):
            raise Fault(f"{name} does not hold finite numbers")
