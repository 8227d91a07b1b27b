"""Callbacks of a run: its two phases, checkpoints, TensorBoard, progress, tables.

Each callback is imported when it is first used: a run without TensorBoard's pictures then needs
neither matplotlib nor fvcore.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcvpt.callbacks.adapter import AdapterWriter as AdapterWriter
    from pcvpt.callbacks.checkpoint import PhaseCheckpoint as PhaseCheckpoint
    from pcvpt.callbacks.condensation import PromptCondensation as PromptCondensation
    from pcvpt.callbacks.prediction import PredictionWriter as PredictionWriter
    from pcvpt.callbacks.prediction import PromptFreezer as PromptFreezer
    from pcvpt.callbacks.progress import PhaseProgressBar as PhaseProgressBar
    from pcvpt.callbacks.run_record import RunRecord as RunRecord
    from pcvpt.callbacks.summary import RunSummary as RunSummary
    from pcvpt.callbacks.tensorboard.inspector import PromptInspector as PromptInspector

_HOMES = {
    "AdapterWriter": "adapter",
    "PhaseCheckpoint": "checkpoint",
    "PhaseProgressBar": "progress",
    "PredictionWriter": "prediction",
    "PromptCondensation": "condensation",
    "PromptFreezer": "prediction",
    "PromptInspector": "tensorboard.inspector",
    "RunRecord": "run_record",
    "RunSummary": "summary",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
