"""Load an adapter file as a model.

Checked are, in order: the digest (`file`), the description (`adapter`), the tensors on a model
without contents (`tensors`), and the fingerprint of the backbone (here).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from pcvpt.adapters.adapter import Fault, shown
from pcvpt.adapters.file import read_adapter
from pcvpt.adapters.hub import local_file
from pcvpt.adapters.tensors import check_fit, lay_out, model_arguments, set_tensors
from pcvpt.errors import UsageError
from pcvpt.models.factory import create_model
from pcvpt.models.transformer import Blueprint, PromptedTransformer
from pcvpt.models.weights.fingerprint import fingerprint


def load_adapter(
    path: str | Path,
    pretrained: bool | str | Path = True,
    backbone: str | None = None,
    revision: str | None = None,
    **timm_kwargs: Any,
) -> PromptedTransformer:
    """Build the model that :func:`pcvpt.save_adapter` was given, from its backbone and the file.

    It predicts the same, on the same machine bit for bit. All of the file is checked before the
    backbone is fetched. Another backbone is detected by its fingerprint.

    Args:
        path: File, or ``hf://OWNER/NAME`` for a repository of `pcvpt push` on the Hugging Face hub.
            It need not be trusted: it can't run code, nor name files or addresses.
        pretrained: Weights of the backbone: True for timm's own, or the path of a local file.
        backbone: timm model name in place of that in the file. It is required where the latter is
            not registered by timm itself, such as ``hf-hub:OWNER/NAME``, so that no file decides
            what is fetched from where.
        revision: Commit, branch or tag of the repository on the hub; ``hf://OWNER/NAME@REVISION``
            is the same. Default: its newest commit.
        **timm_kwargs: Further arguments of ``timm.create_model``, for example ``cache_dir``.

    Returns:
        The model in evaluation mode. Its attribute ``adapter`` is an
        :class:`~pcvpt.adapters.adapter.Adapter` with ``class_names`` and ``preprocessing``.

    Raises:
        UsageError: If the file is damaged, of another kind, describes an impossible model, or is of
            another backbone; if the hub is away, or its repository has files of others. The message
            names the file.
    """
    path = local_file(path, revision)
    adapter, tensors = read_adapter(path)
    try:
        name = adapter.backbone
        # A name such as hf-hub:OWNER/NAME could send the reader of a file anywhere.
        if backbone is None and not (re.fullmatch(r"[\w.-]+", name) and timm.is_model(name)):
            raise Fault(
                f"the backbone {shown(name)} is not one of timm's own; if you trust it, name it "
                f"in load_adapter(..., backbone={shown(name)})"
            )
        timm_kwargs = {**adapter.timm_kwargs, **timm_kwargs}
        asked = replace(adapter, backbone=backbone or name, timm_kwargs=timm_kwargs)
        arguments = model_arguments(asked, tensors)
        check_fit(adapter, tensors, lay_out(arguments, adapter.form))
    except Fault as error:
        raise UsageError(f"{path}: {error}") from error
    try:
        model = create_model(pretrained=pretrained, **arguments).to(adapter.dtype).eval()
        if adapter.form == "key_value":
            model.use_keys_values()
    except UsageError as error:
        raise UsageError(f"{path}: its backbone: {error}") from error
    found = fingerprint(model)
    if found != adapter.fingerprint:
        raise UsageError(
            f"{path}: trained on a backbone {name} with the fingerprint {adapter.fingerprint}, "
            f"this one has {found}: other weights; give the original ones as `pretrained`"
        )
    set_tensors(model, tensors)
    model.adapter = adapter
    model.blueprint = Blueprint(asked.backbone, adapter.num_prompts, pretrained, timm_kwargs)
    return model


def call_that_loads(path: str | Path, pretrained: bool | str | Path, backbone: str) -> str:
    """Return the call of :func:`load_adapter` for an adapter of a run with these weights."""
    arguments = [repr(str(path))]
    if pretrained is not True:
        weights = repr(str(pretrained)) if pretrained else "FILE_OF_THE_BACKBONE"
        arguments.append(f"pretrained={weights}")
    if ":" in backbone:
        arguments.append(f"backbone={backbone!r}")
    return f"pcvpt.load_adapter({', '.join(arguments)})"
