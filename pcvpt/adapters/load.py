"""From the file of an adapter to a model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pcvpt.adapters import file
from pcvpt.adapters.description import Adapter, from_text
from pcvpt.adapters.fault import Fault
from pcvpt.adapters.layout import arguments_of, lay_out, require_registered
from pcvpt.adapters.save import check_images
from pcvpt.adapters.tensors import check_shapes, put, sizes
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer, create_model
from pcvpt.models.transformer import Blueprint
from pcvpt.models.weights.fingerprint import fingerprint


def load_adapter(
    path: str | Path,
    pretrained: bool | str | Path = True,
    backbone: str | None = None,
    **timm_kwargs: Any,
) -> PromptedTransformer:
    """Build the model that :func:`pcvpt.save_adapter` was given, from its backbone and the file.

    It predicts what that one did, on the same machine bit for bit. All of the file is checked
    before the backbone is fetched; of another backbone, its fingerprint tells.

    Args:
        path: the file. It need not be trusted: it can't run code, nor name files or addresses.
        pretrained: the backbone's weights: True for timm's own, a path for a local file.
        backbone: its name, in place of that in the file. Needed where that is not a model that
            timm itself registers, such as ``hf-hub:OWNER/NAME``: a file may not say where to go.
        **timm_kwargs: further arguments of ``timm.create_model``, e.g. ``cache_dir``.

    Returns:
        The model in evaluation mode. Its ``adapter`` says the rest: ``adapter.class_names``,
        ``adapter.preprocessing`` (from a PIL image to a tensor; in float32, so ``.to`` that of the
        model), ``adapter.provenance``; see :class:`~pcvpt.adapters.description.Adapter`.

    Raises:
        UsageError: naming the file, when it is damaged, of another kind, asks for what can't be,
            or is of another backbone; and for what :func:`pcvpt.create_model` refuses.
    """
    path = Path(path).expanduser()
    try:
        text, tensors = file.read(path)
        adapter = from_text(text)
        if backbone is None:
            require_registered(adapter.backbone)
        asked = replace(
            adapter,
            backbone=backbone or adapter.backbone,
            timm_kwargs={**adapter.timm_kwargs, **timm_kwargs},
        )
        classes, prompts = sizes(tensors)
        arguments = arguments_of(asked, classes, prompts)
        layout = lay_out(arguments)
        check_shapes(layout, tensors)
        check_images(adapter, classes, layout)
    except Fault as error:
        raise UsageError(f"{path}: {error}") from error
    try:
        model = create_model(pretrained=pretrained, **arguments).to(adapter.dtype).eval()
    except UsageError as error:
        raise UsageError(f"{path}: the backbone that it asks for: {error}") from error
    _require_backbone(path, model, adapter)
    put(model, tensors)
    model.adapter = adapter
    model.blueprint = Blueprint(asked.backbone, adapter.num_prompts, pretrained, asked.timm_kwargs)
    return model


def _require_backbone(path: Path, model: PromptedTransformer, adapter: Adapter) -> None:
    found = fingerprint(model)
    if found != adapter.fingerprint:
        raise UsageError(
            f"{path}: trained on a backbone {adapter.backbone} with the fingerprint "
            f"{adapter.fingerprint}, this one has {found}: other weights; give those of then as "
            "`pretrained`"
        )
