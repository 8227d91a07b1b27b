"""Save the prompts and the head of a trained model as an adapter file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pcvpt.adapters.adapter import ABOUT_WEIGHTS, Adapter, Fault, to_text
from pcvpt.adapters.file import write_adapter
from pcvpt.adapters.tensors import check_fit, check_same_layout, lay_out, model_arguments, pack
from pcvpt.data import Preprocessing
from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.weights.fingerprint import backbone_tensors, fingerprint
from pcvpt.runs.version import __version__


def save_adapter(
    model: PromptedTransformer,
    path: str | Path,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    trained: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write prompts and head of ``model``, and a description of them, into one small file.

    Condensed prompts are not in it, nor is the backbone. The model does not change. The write is
    atomic.

    Args:
        model: Model of :func:`pcvpt.create_model` (of a ``PromptTuner`` its ``.model``), in any
            precision, frozen or not. Its layout must not have been changed since.
        path: File, by custom ``NAME.safetensors``.
        class_names: Names of the classes in the order of the labels. Default: unknown.
        preprocessing: Preprocessing of images in evaluation. Default: unknown.
        provenance: Origin of the adapter as plain values that JSON can hold. Default: none.
        overwrite: Replace a file that exists. Default: refuse.
        trained: Tensors to write in place of the model's own, by the names of its state dict.

    Returns:
        The path of the file.

    Raises:
        UsageError: If the file exists, can't be written, or could not be loaded again. The message
            names the file.
    """
    path = Path(path).expanduser()
    if path.is_dir() or (path.exists() and not overwrite):
        remedy = "give the name of a file" if path.is_dir() else "give another, or overwrite=True"
        raise UsageError(f"{path}: exists; {remedy}")
    try:
        if isinstance(class_names, str):
            raise Fault(f"class_names={class_names!r} is one text; give a list")
        adapter = replace(
            _describe(model),
            class_names=None if class_names is None else tuple(class_names),
            preprocessing=preprocessing,
            provenance=dict(provenance or {}),
        )
        tensors = pack(model, model.state_dict() if trained is None else trained)
        text, layout = to_text(adapter), model
        if ":" not in adapter.backbone:  # else timm asks the place that the name is of
            layout = lay_out(model_arguments(adapter, tensors), adapter.form)
            check_same_layout(model, layout)
        check_fit(adapter, tensors, layout)
    except Fault as error:
        raise UsageError(f"{path}: not written: {error}") from error
    write_adapter(path, text, tensors)
    return path


def _describe(model: PromptedTransformer) -> Adapter:
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
    arguments = {
        k: v for k, v in blueprint.timm_kwargs.items() if k not in ABOUT_WEIGHTS and v is not None
    }
    if (size := model.patch_embed.img_size) is not None:
        arguments["img_size"] = tuple(size)
    return Adapter(
        backbone=blueprint.backbone,
        mode=model.mode,
        execution=model.execution,
        pool_prompts=getattr(model, "pool_prompts", False),
        num_prompts=blueprint.num_prompts,
        timm_kwargs=arguments,
        dtype=dtypes.pop(),
        fingerprint=fingerprint(model),
        version=__version__,
        form=model.prompts.form,
    )
