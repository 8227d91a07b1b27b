"""Which arguments of ``timm.create_model`` an adapter may hold.

Only those of the constructors of supported models, with plain values: they say how the model is
laid out. What says where weights come from (``checkpoint_path``, ``pretrained_cfg``, ``cache_dir``,
...) is no such argument. It is left out when an adapter is written, and refused in a file, which
could else make timm open another file or an address.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from pcvpt.adapters.fault import Fault, shown
from pcvpt.models.registry import FAMILIES

_OF_WEIGHTS = {"pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
_NOT_LAYOUT = {"num_classes", "device", "dtype", "kwargs"}
_LARGEST = 2**16  # of a whole number; memory is checked once the model is laid out
_MOST_BLOCKS = 256
_LONGEST = {"list": 16, "text": 64}


def layout_arguments(timm_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``timm_kwargs`` that an adapter must know, not those about weights."""
    return {k: v for k, v in timm_kwargs.items() if k not in _OF_WEIGHTS and v is not None}


def check_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``arguments`` with tuples for lists.

    Raises:
        Fault: for an argument that is not of the layout, or a value that is not plain and small.
    """
    unknown = sorted(arguments.keys() - _known())
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
    if isinstance(value, (list, tuple)) and len(value) <= _LONGEST["list"] and nested < 2:
        return tuple(_plain(name, part, nested + 1) for part in value)
    if value is None or isinstance(value, (bool, float)):
        return value
    if isinstance(value, int) and 0 <= value <= _LARGEST:
        return value
    if isinstance(value, str) and len(value) <= _LONGEST["text"]:
        return value
    raise Fault(
        f"timm_kwargs {name}={shown(value)}: an adapter holds numbers, names and short lists of "
        "them; whole ones from 0 to 65,536"
    )


@cache
def _known() -> frozenset[str]:
    parameters = (inspect.signature(timm_class).parameters for timm_class in FAMILIES)
    return frozenset(name for names in parameters for name in names) - _NOT_LAYOUT
