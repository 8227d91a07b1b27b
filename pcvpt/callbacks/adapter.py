"""Adapter file of a run: all that it has trained, enough to use it."""

import math
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from typing_extensions import override

from pcvpt.adapters import save_adapter
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer
from pcvpt.runs.folder import CHECKPOINTS, folder_of, read_checkpoint
from pcvpt.training.hooks import image_data
from pcvpt.training.module import PromptTuner, require_tuner
from pcvpt.training.phases import named

_OF_MODULE = "model."  # before the names of the model's tensors in those of the module


class AdapterWriter(Callback):
    """Writes ``adapter.safetensors`` into the run folder at the end of a fit.

    It holds the prompts and the head of the checkpoint that represents the run: the best of
    fine-tuning, or else its last; without fine-tuning those of prompt training; without checkpoints
    the model at the end of the run. With several budgets there is one adapter for each, such as
    ``adapter_0.3.safetensors``. See :func:`pcvpt.load_adapter`. Its provenance has the name of the
    run folder and, for images of your own, their folder as the configuration names it.
    """

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        folder = folder_of(trainer)  # all processes must ask
        if not trainer.is_global_zero or cast(Any, trainer).fast_dev_run:
            return
        for budget, checkpoint in _chosen(folder / CHECKPOINTS, module.schedule.budgets):
            path = folder / f"{named('adapter', budget)}.safetensors"
            try:
                self._write(trainer, module, path, budget, checkpoint)
            except UsageError as error:  # the run itself is complete
                rank_zero_warn(f"No adapter: {error}")

    def _write(
        self,
        trainer: pl.Trainer,
        module: PromptTuner,
        path: Path,
        budget: str,
        checkpoint: Path | None,
    ) -> None:
        data = image_data(trainer)
        report = module.report
        measured = {**report.figures, **report.entry(budget)}
        save_adapter(
            module.model,
            path,
            class_names=data.class_names if data else None,
            preprocessing=data.preprocessing if data else None,
            provenance={
                "run": path.absolute().parent.name,
                "checkpoint": checkpoint and checkpoint.stem,
                "budget": budget,
                "seed": module.run_seed,
                "epochs": trainer.current_epoch,
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                **{  # without val there is no accuracy
                    name: value
                    for name, value in measured.items()
                    if name.startswith("accuracy_") and math.isfinite(value)
                },
                "data": data.describe() if data else None,
            },
            overwrite=True,  # an earlier start of the same run may have written one
            trained=_trained(checkpoint) if checkpoint else None,
        )
        size = path.stat().st_size / 1000
        rank_zero_info(f"Adapter of {size:,.0f} KB: {_call(module.model, path)}")


def _chosen(folder: Path, budgets: tuple[str, ...]) -> Iterator[tuple[str, Path | None]]:
    """Yield each budget with the checkpoint in ``folder`` that represents it; None without one."""
    found = {budget: _of_phase(folder, named("finetune", budget)) for budget in budgets}
    written = {budget: path for budget, path in found.items() if path is not None}
    # A run may end before it fine-tunes.
    yield from written.items() or [("", _of_phase(folder, "prompt"))]


def _of_phase(folder: Path, phase: str) -> Path | None:
    paths = (folder / f"{phase}-{which}.ckpt" for which in ("best", "last"))
    return next((path for path in paths if path.is_file()), None)


def _trained(checkpoint: Path) -> dict[str, Tensor]:
    """Return the tensors of ``checkpoint`` by their names in the model."""
    state = read_checkpoint(checkpoint)["state_dict"]
    return {
        name.removeprefix(_OF_MODULE): tensor
        for name, tensor in state.items()
        if name.startswith(_OF_MODULE)
    }


def _call(model: PromptedTransformer, path: Path) -> str:
    """Return the call that loads the adapter ``path`` of ``model``."""
    blueprint = model.blueprint
    assert blueprint is not None  # else there would be no adapter
    weights = blueprint.pretrained
    given = {True: "", False: ", pretrained=FILE_OF_THE_BACKBONE"}
    more = given[weights] if isinstance(weights, bool) else f", pretrained={str(weights)!r}"
    if ":" in blueprint.backbone:
        more += f", backbone={blueprint.backbone!r}"
    return f"pcvpt.load_adapter({str(path)!r}{more})"
