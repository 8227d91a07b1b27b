"""What happens around training: two phases, checkpoints, TensorBoard, progress, tables."""

from pcvpt.callbacks.adapter import AdapterWriter
from pcvpt.callbacks.checkpointing import PhaseCheckpoint
from pcvpt.callbacks.condensation import PromptCondensation
from pcvpt.callbacks.inspection import PromptInspector
from pcvpt.callbacks.prediction import PredictionWriter, PromptFreezer
from pcvpt.callbacks.progress import PhaseProgressBar
from pcvpt.callbacks.record import RunRecord
from pcvpt.callbacks.summary import RunSummary

__all__ = [
    "AdapterWriter",
    "PhaseCheckpoint",
    "PhaseProgressBar",
    "PredictionWriter",
    "PromptCondensation",
    "PromptFreezer",
    "PromptInspector",
    "RunRecord",
    "RunSummary",
]
