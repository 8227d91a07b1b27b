import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import STEPS, Fit, Run, TinyData, make_trainer, make_tuner, scripted
from lightning.pytorch.callbacks import Callback

from pcvpt import UsageError
from pcvpt.callbacks import PhaseCheckpoint, RunRecord
from pcvpt.runs.atomic import link_file, write_text
from pcvpt.runs.signals import Interrupted

STAGES = ("prompt-best", "prompt-last", "masked", "finetune-best", "finetune-last")
TRAINED = {
    *("phase", "model.prompts.values", "model.prompts.keep", "model.prompts.scores"),
    *("model.head.weight", "model.head.bias"),
}


def test_a_run_leaves_best_and_last_of_both_phases_and_the_masked_model(two_phases: Run) -> None:
    module, watch = two_phases.module, two_phases.watch
    assert two_phases.checkpoints() == set(STAGES)
    last, masked, first = map(two_phases.state, ("finetune-last", "masked", "prompt-last"))
    for name, value in module.state_dict().items():
        assert name not in last or torch.equal(last[name], value)
    assert torch.equal(masked["model.prompts.keep"], module.model.prompts.keep)
    assert not masked["model.prompts.keep"].all()
    assert torch.equal(masked["model.prompts.values"], watch.prompts[2 * STEPS])
    assert torch.equal(masked["model.head.weight"], watch.heads[2 * STEPS])
    assert torch.equal(first["model.prompts.values"], masked["model.prompts.values"])
    assert first["model.prompts.keep"].all()
    assert [int(two_phases.state(stage)["phase"]) for stage in STAGES] == [0, 0, 1, 1, 1]


def test_checkpoints_hold_only_what_is_trained(two_phases: Run) -> None:
    for stage in STAGES:
        assert set(two_phases.state(stage)) == TRAINED
    trained = sum(p.numel() for p in two_phases.module.parameters() if p.requires_grad)
    size, masked = (two_phases.checkpoint(n).stat().st_size for n in ("finetune-last", "masked"))
    assert 8 * trained < size < 8 * trained + 40_000  # values and momentum, and their names
    assert masked < size - 4 * trained + 10_000


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({"method": "merge"}, "key_value"),
        ({"method": "merge", "finetune_as": "token"}, "token"),
        ({"finetune_as": "key_value"}, "key_value"),
    ],
    ids=str,
)
def test_checkpoints_of_any_form_are_evaluated_as_they_were_in_the_run(
    fit: Fit, tmp_path: Path, options: dict[str, Any], form: str
) -> None:
    run = fit({"keep": [0.5, 0.1], **options}, callbacks=[PhaseCheckpoint()])
    trainer, module = make_trainer(tmp_path / "later", []), make_tuner()
    for entry in run.report["budgets"]:
        for stage, figure in ("masked", "masked"), ("finetune", "finetuned"):
            last = "" if stage == "masked" else "-last"
            path = run.checkpoint(f"{stage}_{entry['keep']}{last}")
            (found,) = trainer.validate(module, TinyData(), ckpt_path=path, verbose=False)
            assert 100 * found["val/accuracy"] == pytest.approx(entry[f"accuracy_{figure}"])
            assert module.model.prompts.form == form
            assert sum(module.model.prompts.counts()) == entry["prompts_kept"]


@pytest.mark.slow
def test_best_is_counted_within_its_phase(fit: Fit) -> None:
    options = {"prompt_epochs": 2, "finetune_epochs": 3}
    checkpoint = PhaseCheckpoint(monitor="scripted")
    run = fit(options, scripted(3.0, 1.0, 2.0, 2.5, 0.0), callbacks=[checkpoint])
    assert [run.load(stage)["epoch"] for stage in STAGES] == [0, 1, 2, 3, 4]


class Noting(PhaseCheckpoint):
    """Notes the epochs after which the last was saved, and the rows of the table by then."""

    def _save_last(self, trainer: Any, same_as: str = "") -> None:
        super()._save_last(trainer, same_as)
        table = Path(trainer.default_root_dir, "metrics.csv")
        self.saved.append((trainer.current_epoch, len(table.read_text().splitlines()) - 1))


@pytest.mark.parametrize(("seconds", "epochs"), [(0, range(6)), (1e9, (0, 2, 3, 5))])
def test_the_last_is_saved_with_a_best_at_the_end_of_a_phase_and_after_some_time(
    fit: Fit, seconds: float, epochs: Sequence[int]
) -> None:
    checkpoint = Noting(monitor="scripted", every_seconds=seconds)
    checkpoint.saved = []
    options = {"prompt_epochs": 3, "finetune_epochs": 3}
    values = scripted(3.0, 1.0, 2.0, 2.0, 1.0, 3.0)
    run = fit(options, values, callbacks=[checkpoint, RunRecord()])
    assert checkpoint.saved == [(epoch, epoch + 1) for epoch in epochs]
    assert run.load("prompt-best")["epoch"] == 0
    assert run.load("prompt-last")["epoch"] == 2
    assert run.checkpoint("finetune-best").samefile(run.checkpoint("finetune-last"))


def test_a_file_gets_a_second_name_also_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for text in "one", "two":
        write_text(first, text)
        link_file(first, second)
        assert second.samefile(first)
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    write_text(first, "three")
    link_file(first, second)
    assert not second.samefile(first)
    assert second.read_text() == "three"
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


def test_an_epoch_without_validation_cannot_be_the_best(fit: Fit) -> None:
    run = fit({"prompt_epochs": 2}, callbacks=[PhaseCheckpoint()], check_val_every_n_epoch=2)
    assert run.checkpoints() == {"prompt-best", "prompt-last", "masked", "finetune-last"}


class Signal(Callback):
    """Sends a signal to this process, as a scheduler does, after one batch, or one validation."""

    def __init__(self, batch: int | None) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, number: int) -> None:
        if number == self.batch:
            signal.raise_signal(signal.SIGTERM)

    def on_validation_start(self, *_: Any) -> None:
        if self.batch is None:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("batch", "steps"), [(1, 2), (None, STEPS)])
def test_a_signal_ends_the_run_after_the_step_or_the_epoch_and_the_last_is_saved(
    fit: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str], batch: int | None, steps: int
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as end:
        fit({"prompt_epochs": 2}, callbacks=[Signal(batch), PhaseCheckpoint()])
    assert end.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    saved = torch.load(tmp_path / "checkpoints" / "prompt-last.ckpt", weights_only=True)
    assert saved["global_step"] == steps
    assert "--resume" in capfd.readouterr().err


def test_a_number_of_steps_or_a_metric_that_cannot_be_is_refused(fit: Fit) -> None:
    with pytest.raises(UsageError, match="every_n_steps=0"):
        PhaseCheckpoint(every_n_steps=0)
    with pytest.raises(UsageError, match="every_seconds=-1"):
        PhaseCheckpoint(every_seconds=-1)
    with pytest.raises(UsageError, match=r"PhaseCheckpoint\.monitor='val/acuracy'.*val/accuracy"):
        fit(callbacks=[PhaseCheckpoint("val/acuracy")])
