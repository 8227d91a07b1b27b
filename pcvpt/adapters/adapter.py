"""Description of an adapter: all but its tensors, as one JSON text that is untrusted input.

Of the arguments of ``timm.create_model`` it holds those that set the layout of a supported model.
Those that tell where weights come from are refused: they could make timm open another file or an
address.
"""

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import torch
from torchvision.transforms import InterpolationMode

from pcvpt.data import Preprocessing
from pcvpt.data.transforms import Resize
from pcvpt.models.prompt_bank import Form
from pcvpt.models.registry import FAMILIES
from pcvpt.models.transformer import Execution, Mode

_FORMAT = 2  # 1 had no form, since prompts were plain tokens
LONGEST_TEXT = 16 * 2**20  # characters; 20,000 class names are less than a million
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}
_LARGEST = 2**16  # of a whole number; memory is checked once the model is laid out
_MOST_PROMPTS = 10**6  # per layer
_MOST_BLOCKS = 256
ABOUT_WEIGHTS = {"pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
_NOT_LAYOUT = {"num_classes", "device", "dtype", "kwargs"}
_LAYOUT = {k for kind in FAMILIES for k in inspect.signature(kind).parameters} - _NOT_LAYOUT


class Fault(ValueError):
    """Something that can't be in an adapter; a UsageError adds the name of the file."""


def shown(value: Any) -> str:
    """Return ``value`` as an error message may show it, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


@dataclass(frozen=True)
class Adapter:
    """Description of an adapter.

    Attributes:
        backbone: timm model name.
        mode: See :func:`pcvpt.create_model`, as for ``execution`` and ``pool_prompts``.
        num_prompts: Number of prompts per layer before condensing.
        timm_kwargs: Further arguments of ``timm.create_model``, the image size among them.
        dtype: Precision of the backbone.
        fingerprint: Digest of the backbone's weights in that precision.
        version: Version of pcvpt that wrote the file; None where an early one was not installed.
        class_names: Names of the classes in the order of the labels; None if they are not known.
        preprocessing: Transform from a PIL image to the tensor (3, h, w) of one image; None if it
            is not known.
        provenance: Origin of the adapter as plain values.
        form: Form of the prompts.
    """

    backbone: str
    mode: Mode
    execution: Execution
    pool_prompts: bool
    num_prompts: int
    timm_kwargs: Mapping[str, Any]
    dtype: torch.dtype
    fingerprint: str
    version: str | None
    class_names: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    form: Form = "token"


Check = Callable[[Any], bool]


def _kind(kind: type) -> Check:
    return lambda value: type(value) is kind  # a bool is no int here


def _one_of(names: Iterable[str]) -> Check:
    return lambda value: type(value) is str and value in names


def _between(lowest: float, largest: float, *kinds: type) -> Check:
    return lambda value: type(value) in kinds and lowest <= value <= largest


def _list_of(check: Check, length: int | None = None) -> Check:
    return lambda value: (
        type(value) is list and length in (None, len(value)) and all(map(check, value))
    )


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_name(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= 200 and value.isprintable()


_FIELDS: dict[str, Check] = {
    "format": _between(_FORMAT, _FORMAT, int),
    "backbone": _is_name,
    "mode": _one_of(get_args(Mode)),
    "execution": _one_of(get_args(Execution)),
    "pool_prompts": _kind(bool),
    "num_prompts": _between(0, _MOST_PROMPTS, int),
    "timm_kwargs": _kind(dict),
    "dtype": _one_of(DTYPES),
    "fingerprint": _is_name,
    "class_names": _optional(_list_of(_kind(str))),
    "preprocessing": _optional(_kind(dict)),
    "provenance": _kind(dict),
    "version": _optional(_is_name),
    "form": _one_of(get_args(Form)),
}
_PREPROCESSING: dict[str, Check] = {
    "size": _list_of(_between(1, _LARGEST, int), 2),
    "resize": _one_of(get_args(Resize)),
    "interpolation": _one_of([*(mode.value for mode in InterpolationMode), "tf1"]),
    "short_side": _between(1, _LARGEST, int),
    "mean": _list_of(_between(-1e6, 1e6, int, float), 3),
    "std": _list_of(_between(1e-6, 1e6, int, float), 3),
    "keep_aspect": _kind(bool),
}


def _require(what: str, fields: dict[str, Any], table: Mapping[str, Check]) -> None:
    unknown, missing = sorted(fields.keys() - table.keys()), sorted(table.keys() - fields.keys())
    if unknown or missing:
        raise Fault(f"{what} has unknown entries {shown(unknown)} and lacks {shown(missing)}")
    for name, valid in table.items():
        if not valid(fields[name]):
            raise Fault(f"{what} has {name}={shown(fields[name])}, which is not possible")


def to_text(adapter: Adapter) -> str:
    """Return ``adapter`` as JSON; raise a Fault if :func:`from_text` would not read the same."""
    _layout(adapter.timm_kwargs)  # whose error names the argument
    dtype = str(adapter.dtype).removeprefix("torch.")
    fields = {**vars(adapter), "format": _FORMAT, "dtype": dtype}
    if adapter.preprocessing is not None:
        fields["preprocessing"] = asdict(adapter.preprocessing)
        del fields["preprocessing"]["augment"]  # as in evaluation
    try:
        text = json.dumps(fields, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Fault(f"it would hold more than plain, finite values ({error})") from error
    from_text(text)
    return text


def from_text(text: str) -> Adapter:
    """Return the adapter that :func:`to_text` wrote; raise a Fault if ``text`` is anything else."""
    if len(text) > LONGEST_TEXT:
        raise Fault(f"the description has {len(text):,} characters; {LONGEST_TEXT:,} are allowed")
    try:
        fields = json.loads(text, parse_float=_finite, parse_constant=_finite)
        json.dumps(fields, ensure_ascii=False).encode()  # names with half a character
    except (ValueError, RecursionError) as error:
        raise Fault(f"the description is not readable ({shown(str(error))})") from error
    if not isinstance(fields, dict):
        raise Fault("the description is not an object")
    if (number := fields.get("format")) not in (1, _FORMAT):
        raise Fault(
            f"an adapter of format {shown(number)}, written by pcvpt "
            f"{shown(fields.get('version'))}; this pcvpt reads formats 1 to {_FORMAT}: update pcvpt"
        )
    if number == 1 and "form" not in fields:
        fields |= {"format": _FORMAT, "form": "token"}
    _require("the description", fields, _FIELDS)
    del fields["format"]
    if (steps := fields["preprocessing"]) is not None:
        _require("preprocessing", steps, _PREPROCESSING)
        if steps["resize"] == "crop" and steps["short_side"] < max(steps["size"]):
            raise Fault(f"preprocessing crops more than it has: {shown(steps)}")
        tuples = {name: tuple(steps[name]) for name in ("size", "mean", "std")}
        fields["preprocessing"] = Preprocessing(**{**steps, **tuples, "augment": False})
    if fields["class_names"] is not None:
        fields["class_names"] = tuple(fields["class_names"])
    layout, dtype = _layout(fields["timm_kwargs"]), DTYPES[fields["dtype"]]
    return Adapter(**{**fields, "timm_kwargs": layout, "dtype": dtype})


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _layout(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``arguments`` of a model's layout with tuples for lists."""
    unknown = sorted(arguments.keys() - _LAYOUT)
    if unknown:
        raise Fault(f"timm_kwargs={shown(unknown)} can't be in an adapter; leave them out")
    checked = {name: _plain(name, value) for name, value in arguments.items()}
    for name in "depth", "depths":
        depths = checked.get(name, 0)
        counts = depths if isinstance(depths, tuple) else (depths,)
        if not all(type(n) is int and n >= 0 for n in counts) or sum(counts) > _MOST_BLOCKS:
            raise Fault(f"timm_kwargs {name}={shown(depths)}: at most {_MOST_BLOCKS} blocks")
    return checked


def _plain(name: str, value: Any, nested: int = 0) -> Any:
    if isinstance(value, (list, tuple)) and len(value) <= 16 and nested < 2:
        return tuple(_plain(name, part, nested + 1) for part in value)
    small = isinstance(value, int) and 0 <= value <= _LARGEST
    short = isinstance(value, str) and len(value) <= 64
    if value is None or isinstance(value, (bool, float)) or small or short:
        return value
    raise Fault(
        f"timm_kwargs {name}={shown(value)}: an adapter holds numbers, names and short lists of "
        "them; whole ones from 0 to 65,536"
    )
