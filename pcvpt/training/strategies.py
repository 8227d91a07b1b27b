"""Which of Lightning's strategies a run may have, and why not the others."""

from typing import Any, NamedTuple

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from pcvpt.errors import UsageError

_REMEDY = "use one device, or trainer.strategy=ddp"


class _Refusal(NamedTuple):
    """What cannot be used: how its names begin, its classes, and the reason."""

    names: tuple[str, ...]
    classes: tuple[str, ...]
    reason: str


_REFUSALS = (
    _Refusal(
        ("fsdp", "model_parallel"),
        ("FSDPStrategy", "ModelParallelStrategy"),
        "it divides each parameter among the devices, but scoring and masking need whole prompts "
        "on each; and there is little to divide, since the backbone is frozen",
    ),
    _Refusal(
        ("deepspeed",),
        ("DeepSpeedStrategy",),
        "it keeps the optimizer that a run starts with, but the second phase needs one of its own",
    ),
    _Refusal(
        ("xla", "single_xla", "single_tpu", "tpu"),
        ("XLAStrategy", "SingleDeviceXLAStrategy"),
        "condensing was never tried there",
    ),
)
_OPTIONS = {
    "static_graph": "DDP then relies on steps that are all alike, but the second phase has fewer "
    "prompts",
    "model_averaging_period": "devices then train apart for some steps, and would score different "
    "prompts",
}


def refuse_named(strategy: Any) -> None:
    """Refuse a strategy by what a configuration says of it, before any object is made.

    So that the answer is the same whether or not a package that it needs is installed.

    Args:
        strategy: a registered name such as "ddp", or a mapping with ``class_path`` and
            ``init_args``; anything else is left to :func:`require_supported`.

    Raises:
        UsageError: for a strategy that is refused, with its name and the reason.
    """
    if isinstance(strategy, str):
        for refusal in _REFUSALS:
            if strategy.startswith(refusal.names):
                raise _error(strategy, refusal.reason)
        return
    name = str(_get(strategy, "class_path") or "").rpartition(".")[2]
    for refusal in _REFUSALS:
        if name in refusal.classes:
            raise _error(name, refusal.reason)
    for options in (_get(strategy, "init_args"), _get(strategy, "dict_kwargs")):
        for option, reason in _OPTIONS.items():
            if _get(options, option):
                raise _error_of_option(option, _get(options, option), reason)


def require_supported(strategy: Strategy) -> None:
    """Refuse strategies under which a change of phase would fail, or go wrong silently.

    Raises:
        UsageError: for any but one device and DDP, with its name and, where known, the reason.
    """
    name = type(strategy).__name__
    bases = {base.__name__ for base in type(strategy).__mro__}
    for refusal in _REFUSALS:
        if bases & set(refusal.classes):
            raise _error(name, refusal.reason)
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise _error(name, "condensing was never tried with it")
    options = {
        "static_graph": getattr(strategy, "_ddp_kwargs", {}).get("static_graph"),
        "model_averaging_period": getattr(strategy, "_model_averaging_period", None),
    }
    for option, value in options.items():
        if value:
            raise _error_of_option(option, value, _OPTIONS[option])


def _get(options: Any, name: str) -> Any:
    # Of a mapping, or jsonargparse's Namespace, which is none.
    return options.get(name) if hasattr(options, "get") else None


def _error(name: str, reason: str) -> UsageError:
    return UsageError(f"strategy {name} is not supported: {reason}; {_REMEDY}")


def _error_of_option(option: str, value: Any, reason: str) -> UsageError:
    return UsageError(f"{option}={value} is not supported: {reason}; leave it out")
