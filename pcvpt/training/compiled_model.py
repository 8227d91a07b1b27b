"""The model as ``torch.compile`` makes it, and how long that takes."""

import time
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.weights.messages import log_in_first_process

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class CompiledModel:
    """Calls a model that it compiles; ``mode`` is that of torch, or True for "default"."""

    def __init__(self, model: PromptedTransformer, mode: bool | CompileMode) -> None:
        known = get_args(CompileMode)
        if mode is not True and mode not in known:
            raise UsageError(f"compile={mode!r}; give true, false, or one of {', '.join(known)}")
        self._model: Any = model
        self._model.compile(mode=None if mode is True else mode)
        self._timed: set[bool] = set()  # whether in training

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of ``images``; log how long the first call of each graph takes."""
        # Else a last, smaller batch would compile a second graph.
        torch._dynamo.maybe_mark_dynamic(images, 0)
        training, start = self._model.training, time.perf_counter()
        logits: Tensor = self._model(images)
        if training not in self._timed:
            self._timed.add(training)
            log_in_first_process(
                f"compile: the first pass of {'training' if training else 'evaluation'} took "
                f"{time.perf_counter() - start:.1f} s, compilation included"
            )
        return logits

    def reset(self) -> None:
        """Drop the graphs: those of an earlier mask are of no use, but torch counts them."""
        torch.compiler.reset()
        self._timed.clear()
