"""Adapter file of a run: all that it has trained, enough to use it."""

import math
from datetime import datetime, timezone
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from pcvpt.adapters import save_adapter
from pcvpt.adapters.load import call_that_loads
from pcvpt.errors import UsageError
from pcvpt.runs.folder import CHECKPOINTS, folder_of, read_checkpoint
from pcvpt.training.callback_protocols import RunWriter, image_data
from pcvpt.training.module import PromptTuner, require_tuner
from pcvpt.training.phases import named


class AdapterWriter(RunWriter):
    """Writes ``adapter.safetensors`` into the run folder at the end of a fit.

    It holds the prompts and the head of the checkpoint that represents the run: the best of
    fine-tuning, or else its last; without fine-tuning those of prompt training; without checkpoints
    the model at the end of the run. With several budgets there is one adapter for each, such as
    ``adapter_0.3.safetensors``; for a run that was stopped there is none.
    """

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = require_tuner(pl_module)
        folder = folder_of(trainer)  # all processes must ask
        if not (trainer.is_global_zero and module.is_over):
            return
        for budget, checkpoint in _chosen(folder / CHECKPOINTS, module.schedule.budgets).items():
            path = folder / f"{named('adapter', budget)}.safetensors"
            try:
                _write(trainer, module, path, budget, checkpoint)
            except UsageError as error:  # the run itself is complete
                rank_zero_warn(f"No adapter: {error}")


def _write(
    trainer: pl.Trainer, module: PromptTuner, path: Path, budget: str, checkpoint: Path | None
) -> None:
    data, report = image_data(trainer), module.report
    measured = {**report.figures, **report.entry(budget)}
    state = read_checkpoint(checkpoint)["state_dict"] if checkpoint else {}
    trained = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
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
                if name == "validated" or (name.startswith("accuracy_") and math.isfinite(value))
            },
            "data": data.describe() if data else None,
        },
        overwrite=True,  # an earlier start of the same run may have written one
        trained=trained or None,
    )
    size, blueprint = path.stat().st_size / 1000, module.model.blueprint
    assert blueprint is not None  # else there would be no adapter
    call = call_that_loads(path, blueprint.pretrained, blueprint.backbone)
    rank_zero_info(f"Adapter of {size:,.0f} KB: {call}")


def _chosen(folder: Path, budgets: tuple[str, ...]) -> dict[str, Path | None]:
    """Return by budget the checkpoint in ``folder`` that represents it; None without one."""

    def of_phase(phase: str) -> Path | None:
        paths = (folder / f"{phase}-{which}.ckpt" for which in ("best", "last"))
        return next((path for path in paths if path.is_file()), None)

    found = {budget: of_phase(named("finetune", budget)) for budget in budgets}
    # A run may end before it fine-tunes.
    return {b: path for b, path in found.items() if path} or {"": of_phase("prompt")}
