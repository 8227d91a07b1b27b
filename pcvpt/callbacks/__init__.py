"""What happens around training: two phases, checkpoints, TensorBoard, progress, tables."""

from pcvpt.callbacks.adapter import AdapterWriter
from pcvpt.callbacks.checkpoint import PhaseCheckpoint
from pcvpt.callbacks.condensation import PromptCondensation
from pcvpt.callbacks.prediction import PredictionWriter, PromptFreezer
from pcvpt.callbacks.progress import PhaseProgressBar
from pcvpt.callbacks.run_record import RunRecord
from pcvpt.callbacks.summary import RunSummary
from pcvpt.callbacks.tensorboard import PromptInspector

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
