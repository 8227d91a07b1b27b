"""What an adapter says of itself beside its tensors: one JSON text, read as untrusted input."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch

from pcvpt.adapters.arguments import check_arguments
from pcvpt.adapters.fault import Fault, shown
from pcvpt.adapters.preprocessing import preprocessing_of, values_of
from pcvpt.data import Preprocessing
from pcvpt.models.transformer import Execution, Mode

FORMAT = 1
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_LONGEST = 16 * 2**20  # characters of a description; 20,000 class names are less than a million
_MOST_PROMPTS = 10**6  # per layer


@dataclass(frozen=True)
class Adapter:
    """What an adapter says of itself.

    Attributes:
        backbone: a timm model name.
        mode: see :func:`pcvpt.create_model`.
        execution: see :func:`pcvpt.create_model`.
        pool_prompts: see :func:`pcvpt.create_model`.
        num_prompts: prompts per layer before condensing.
        timm_kwargs: further arguments of ``timm.create_model``, the size of the images included.
        dtype: precision of the backbone.
        fingerprint: Digest of the backbone's weights in that precision.
        class_names: in the order of the labels; None if it does not say.
        preprocessing: turns a PIL image into the tensor (3, h, w) that the model takes, one of a
            batch; None if it does not say.
        provenance: where the adapter comes from: any plain values.
        version: of the pcvpt that wrote it; None if that was not installed.
    """

    backbone: str
    mode: Mode
    execution: Execution
    pool_prompts: bool
    num_prompts: int
    timm_kwargs: Mapping[str, Any]
    dtype: torch.dtype
    fingerprint: str
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    provenance: Mapping[str, Any]
    version: str | None


def to_text(adapter: Adapter) -> str:
    """Return ``adapter`` as JSON.

    Raises:
        Fault: when :func:`from_text` would not give the same again.
    """
    check_arguments(adapter.timm_kwargs)  # whose error says which one
    names, steps = adapter.class_names, adapter.preprocessing
    fields = {
        **vars(adapter),
        "format": FORMAT,
        "timm_kwargs": dict(adapter.timm_kwargs),
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "class_names": None if names is None else list(names),
        "preprocessing": None if steps is None else values_of(steps),
        "provenance": dict(adapter.provenance),
    }
    try:
        text = json.dumps(fields, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Fault(f"it would hold more than plain, finite values ({error})") from error
    from_text(text)
    return text


def from_text(text: str) -> Adapter:
    """Return what :func:`to_text` wrote.

    Raises:
        Fault: for anything else.
    """
    fields = _fields(text)
    if fields.get("format") != FORMAT or type(fields["format"]) is not int:
        raise Fault(
            f"an adapter of format {shown(fields.get('format'))}, written by pcvpt "
            f"{shown(fields.get('version'))}; this pcvpt reads format {FORMAT}: use that version"
        )
    del fields["format"]
    known = set(Adapter.__dataclass_fields__)
    if fields.keys() != known:
        unknown, missing = sorted(fields.keys() - known), sorted(known - fields.keys())
        raise Fault(
            f"the description has unknown entries {shown(unknown)} and lacks {shown(missing)}"
        )
    for name, valid in _VALID.items():
        if not valid(fields[name]):
            raise Fault(f"the description says {name}={shown(fields[name])}, which can't be")
    steps, names = fields["preprocessing"], fields["class_names"]
    decided = {
        "timm_kwargs": check_arguments(fields["timm_kwargs"]),
        "dtype": DTYPES[fields["dtype"]],
        "class_names": None if names is None else tuple(names),
        "preprocessing": None if steps is None else preprocessing_of(steps),
    }
    return Adapter(**{**fields, **decided})


def _fields(text: str) -> dict[str, Any]:
    if len(text) > _LONGEST:
        raise Fault(f"the description has {len(text):,} characters; {_LONGEST:,} are allowed")
    try:
        fields = json.loads(text, parse_float=_finite, parse_constant=_finite)
        json.dumps(fields, ensure_ascii=False).encode()  # names with half a character
    except (ValueError, RecursionError) as error:
        raise Fault(f"the description is not readable ({shown(str(error))})") from error
    if not isinstance(fields, dict):
        raise Fault("the description is not an object")
    return fields


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _is_name(value: Any, longest: int = 200) -> bool:
    return type(value) is str and 0 < len(value) <= longest and value.isprintable()


def _are_names(value: Any) -> bool:
    return value is None or (type(value) is list and all(type(name) is str for name in value))


# `in` alone would fail for lists.
_VALID: dict[str, Callable[[Any], bool]] = {
    "backbone": _is_name,
    "mode": lambda value: type(value) is str and value in get_args(Mode),
    "execution": lambda value: type(value) is str and value in get_args(Execution),
    "pool_prompts": lambda value: type(value) is bool,
    "num_prompts": lambda value: type(value) is int and 0 <= value <= _MOST_PROMPTS,
    "timm_kwargs": lambda value: type(value) is dict,
    "dtype": lambda value: type(value) is str and value in DTYPES,
    "fingerprint": _is_name,
    "class_names": _are_names,
    "preprocessing": lambda value: value is None or type(value) is dict,
    "provenance": lambda value: type(value) is dict,
    "version": lambda value: value is None or _is_name(value),
}
