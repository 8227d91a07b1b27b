"""From a trained model to the file of an adapter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pcvpt.adapters import file
from pcvpt.adapters.arguments import layout_arguments
from pcvpt.adapters.description import Adapter, to_text
from pcvpt.adapters.fault import Fault
from pcvpt.adapters.layout import arguments_of, backbone_tensors, check_same_layout, lay_out
from pcvpt.adapters.tensors import check_shapes, pack, sizes
from pcvpt.data import Preprocessing
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer
from pcvpt.models.weights.fingerprint import fingerprint
from pcvpt.runs.environment import own_version


def save_adapter(
    model: PromptedTransformer,
    path: str | Path,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    trained: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write prompts and head of ``model``, and what it takes to use them, into one small file.

    Condensed prompts are not in it, nor is the backbone. The model stays as it is. The file is
    there in full or not at all.

    Args:
        model: from :func:`pcvpt.create_model` (of a ``PromptTuner`` its ``.model``), in any
            precision, frozen or not, but not changed in its layout since.
        path: the file, by custom ``NAME.safetensors``.
        class_names: in the order of the labels.
        preprocessing: of the images that it was trained on, as in evaluation.
        provenance: whatever tells where it comes from: plain values that JSON holds.
        overwrite: replace the file if it is there.
        trained: tensors to write in place of the model's own, by the names of its state dict.

    Returns:
        The path of the file.

    Raises:
        UsageError: naming the file, when it is there already, can't be written, or could not be
            loaded again.
    """
    path = Path(path).expanduser()
    if path.is_dir() or (path.exists() and not overwrite):
        remedy = "give the name of a file" if path.is_dir() else "give another, or overwrite=True"
        raise UsageError(f"{path}: there already; {remedy}")
    try:
        adapter = _describe(model, class_names, preprocessing, provenance or {})
        tensors = pack(model, model.state_dict() if trained is None else trained)
        text = to_text(adapter)
        check_images(adapter, *sizes(tensors)[:1], model)
        if ":" not in adapter.backbone:  # else timm asks the place that the name is of
            layout = lay_out(arguments_of(adapter, *sizes(tensors)))
            check_same_layout(model, layout)
            check_shapes(layout, tensors)
    except Fault as error:
        raise UsageError(f"{path}: not written: {error}") from error
    file.write(path, text, tensors)
    return path


def check_images(adapter: Adapter, classes: int, model: PromptedTransformer) -> None:
    """Raise a Fault unless class names and preprocessing are those of ``model``."""
    names, steps = adapter.class_names, adapter.preprocessing
    if names is not None and len(names) != classes:
        raise Fault(f"{len(names)} class names for a head of {classes} classes")
    size = model.patch_embed.img_size
    if steps is not None and size is not None and steps.size != tuple(size):
        raise Fault(f"preprocessing to {steps.size} for a model of images of {tuple(size)} pixels")


def _describe(
    model: PromptedTransformer,
    class_names: Sequence[str] | None,
    preprocessing: Preprocessing | None,
    provenance: Mapping[str, Any],
) -> Adapter:
    if not isinstance(model, PromptedTransformer):
        raise Fault(
            f"a {type(model).__name__} is no model of pcvpt.create_model; of a PromptTuner give "
            "its .model, of a compiled model the one that was compiled"
        )
    blueprint = model.blueprint
    if blueprint is None:
        raise Fault("the model was not made by pcvpt.create_model, so its backbone has no name")
    dtypes = {t.dtype for t in backbone_tensors(model).values() if t.is_floating_point()}
    if len(dtypes) != 1:
        raise Fault(f"the backbone has several precisions: {sorted(map(str, dtypes))}; .to() one")
    size = model.patch_embed.img_size
    return Adapter(
        backbone=blueprint.backbone,
        mode=model.mode,
        execution=model.execution,
        pool_prompts=getattr(model, "pool_prompts", False),
        num_prompts=blueprint.num_prompts,
        timm_kwargs={
            **layout_arguments(blueprint.timm_kwargs),
            **({} if size is None else {"img_size": tuple(size)}),
        },
        dtype=dtypes.pop(),
        fingerprint=fingerprint(model),
        class_names=_names(class_names),
        preprocessing=preprocessing,
        provenance=provenance,
        version=own_version(),
    )


def _names(class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(class_names, str):
        raise Fault(f"class_names={class_names!r} is one text; give a list")
    return None if class_names is None else tuple(class_names)
