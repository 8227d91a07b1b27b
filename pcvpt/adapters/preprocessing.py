"""What is done to an image, as plain values in an adapter."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, get_args

from torchvision.transforms import InterpolationMode

from pcvpt.adapters.fault import Fault, shown
from pcvpt.data import Preprocessing
from pcvpt.data.transforms import Resize

_LARGEST = 2**16  # pixels of a side
_INTERPOLATIONS = {mode.value for mode in InterpolationMode} | {"tf1"}


def values_of(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the fields of ``preprocessing``, as it is in evaluation, for JSON."""
    fields = asdict(preprocessing)
    del fields["augment"]
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def preprocessing_of(values: dict[str, Any]) -> Preprocessing:
    """Return what :func:`values_of` wrote.

    Raises:
        Fault: for anything else.
    """
    if values.keys() != _VALID.keys():
        raise Fault(f"preprocessing has the entries {shown(sorted(values))}, not {sorted(_VALID)}")
    for name, valid in _VALID.items():
        if not valid(values[name]):
            raise Fault(f"preprocessing says {name}={shown(values[name])}, which can't be")
    if values["resize"] == "crop" and values["short_side"] < max(values["size"]):
        raise Fault(f"preprocessing crops more than it has: {shown(values)}")
    tuples = {name: tuple(values[name]) for name in ("size", "mean", "std")}
    return Preprocessing(**{**values, **tuples, "augment": False})


def _are_numbers(value: Any) -> bool:
    if type(value) is not list or len(value) != 3:
        return False
    return all(type(n) in (int, float) and abs(n) < 1e6 for n in value)


def _is_side(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST


_VALID: dict[str, Callable[[Any], bool]] = {
    "size": lambda value: type(value) is list and len(value) == 2 and all(map(_is_side, value)),
    "resize": lambda value: type(value) is str and value in get_args(Resize),
    "interpolation": lambda value: type(value) is str and value in _INTERPOLATIONS,
    "short_side": _is_side,
    "mean": _are_numbers,
    "std": lambda value: _are_numbers(value) and min(value) > 1e-6,
    "keep_aspect": lambda value: type(value) is bool,
}
