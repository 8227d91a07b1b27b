"""A resumed run equals the uninterrupted one, bit for bit, with dropout and augmentation on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from pcvpt import PromptCondensation, PromptTuner, UsageError
from pcvpt.callbacks import PhaseCheckpoint

Fit = Callable[..., Any]


class Copies(Checkpoint):
    """Copies the last checkpoint of each epoch, as if the run had been killed there."""

    def on_train_epoch_end(self, trainer: Any, pl_module: PromptTuner) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        newest = max(folder.glob("*-last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        shutil.copy(newest, folder / f"epoch-{trainer.current_epoch}.ckpt")


class Scripted(PromptTuner):
    script = (3.0, 2.0, 9.0, 9.0, 9.0)

    def on_validation_epoch_end(self) -> None:
        self.log("scripted", self.script[self.current_epoch])


def _outcome(module: PromptTuner, condense: PromptCondensation) -> dict[str, Any]:
    figures = {k: v for k, v in condense.report.items() if not k.startswith("seconds")}
    return {**figures, **{k: v for k, v in module.state_dict().items() if "metrics" not in k}}


def _differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    assert set(first) == set(second)
    return [
        name
        for name, value in first.items()
        if not (
            torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        )
    ]


@pytest.mark.parametrize(
    ("epoch", "rewind"),
    [(0, True), (1, False), (2, True)],
    ids=["amid prompt training", "before the change", "amid fine-tuning"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path, epoch: int, rewind: bool
) -> None:
    def run(folder: Path, ckpt_path: Path | None = None) -> tuple[dict[str, Any], Any]:
        condense = PromptCondensation(prompt_epochs=2, finetune_epochs=2, rewind=rewind)
        torch.manual_seed(1)
        callbacks = [PhaseCheckpoint(), Copies()]
        _, module, watch = fit(
            condense,
            tuner(prompt_dropout=0.3),
            callbacks=callbacks,
            folder=folder,
            ckpt_path=ckpt_path,
        )
        return _outcome(module, condense), watch

    whole, _ = run(tmp_path / "whole")
    resumed, watch = run(
        tmp_path / "resumed", tmp_path / "whole" / "checkpoints" / f"epoch-{epoch}.ckpt"
    )
    assert watch.epochs[0] == epoch + 1
    assert len(watch.epochs) == 5 * (3 - epoch)
    assert _differences(whole, resumed) == []
    assert not whole["model.prompts.keep"].all()
    best = [
        torch.load(tmp_path / run / "checkpoints" / "finetune-best.ckpt", weights_only=True)
        for run in ("whole", "resumed")
        if (tmp_path / run / "checkpoints" / "finetune-best.ckpt").exists()
    ]
    assert len({saved["epoch"] for saved in best}) == 1


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_that_patience_ended_early_resumes_as_it_went_on(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path, epoch: int
) -> None:
    # Prompt training ends with epoch 1, which brings no better metric.
    def run(folder: Path, ckpt_path: Path | None = None) -> tuple[dict[str, Any], Any]:
        condense = PromptCondensation(
            prompt_epochs=3, finetune_epochs=2, patience=1, monitor="scripted"
        )
        torch.manual_seed(1)
        module = tuner()
        module.__class__ = Scripted
        trainer, module, watch = fit(
            condense,
            module,
            callbacks=[PhaseCheckpoint(), Copies()],
            folder=folder,
            ckpt_path=ckpt_path,
        )
        assert trainer.current_epoch == 4
        return _outcome(module, condense), watch

    whole, watch = run(tmp_path / "whole")
    resumed, again = run(
        tmp_path / "resumed", tmp_path / "whole" / "checkpoints" / f"epoch-{epoch}.ckpt"
    )
    assert again.rates == watch.rates[5 * (epoch + 1) :]
    assert _differences(whole, resumed) == []


def test_another_number_of_fine_tune_epochs_may_be_asked_for_when_resuming(
    fit: Fit, tmp_path: Path
) -> None:
    fit(
        PromptCondensation(prompt_epochs=1, finetune_epochs=1),
        callbacks=[PhaseCheckpoint()],
    )
    trainer, _, watch = fit(
        PromptCondensation(prompt_epochs=1, finetune_epochs=3),
        ckpt_path=tmp_path / "checkpoints" / "prompt-last.ckpt",
    )
    assert trainer.current_epoch == 4
    assert watch.phases == ["finetune"] * 15


def test_a_resumed_run_may_rewind_although_the_first_did_not(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    def values(rewind: bool, ckpt_path: Path | None = None) -> Tensor:
        torch.manual_seed(1)
        _, _, watch = fit(
            PromptCondensation(prompt_epochs=1, finetune_epochs=1, rewind=rewind),
            tuner(),
            callbacks=[PhaseCheckpoint()],
            folder=tmp_path / f"{rewind}-{ckpt_path is None}",
            ckpt_path=ckpt_path,
        )
        return watch.prompts[-5]  # as the fine-tune phase finds them

    trained = values(rewind=False)
    last = tmp_path / "False-True" / "checkpoints" / "prompt-last.ckpt"
    assert torch.equal(values(rewind=True, ckpt_path=last), values(rewind=True))
    assert torch.equal(values(rewind=False, ckpt_path=last), trained)


def test_resuming_with_fewer_prompt_epochs_still_fine_tunes_for_as_long(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    fit(
        PromptCondensation(prompt_epochs=3, finetune_epochs=1),
        tuner(),
        callbacks=[PhaseCheckpoint()],
    )
    _, _, watch = fit(
        PromptCondensation(prompt_epochs=1, finetune_epochs=2),
        tuner(),
        ckpt_path=tmp_path / "checkpoints" / "prompt-last.ckpt",
    )
    assert watch.epochs == [3] * 5 + [4] * 5
    assert set(watch.phases) == {"finetune"}


def test_time_before_a_resume_is_counted(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    first = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    fit(first, tuner(), callbacks=[PhaseCheckpoint()])
    again = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    last = tmp_path / "checkpoints" / "prompt-last.ckpt"
    saved = torch.load(last, weights_only=True)["callbacks"]["PromptCondensation"]["report"]
    fit(again, tuner(), ckpt_path=last)
    assert again.report["seconds_prompt"] >= saved["seconds_prompt"] > 0


def _fit_list(
    fit: Fit, tuner: Callable[..., PromptTuner], folder: Path, ckpt_path: Path | None = None
) -> tuple[dict[str, Any], Any]:
    condense = PromptCondensation([0.5, 0.1], prompt_epochs=1, finetune_epochs=2, rewind=True)
    torch.manual_seed(1)
    _, module, watch = fit(
        condense,
        tuner(prompt_dropout=0.3),
        callbacks=[PhaseCheckpoint(), Copies()],
        folder=folder,
        ckpt_path=ckpt_path,
    )
    outcome = _outcome(module, condense)
    for entry in outcome["budgets"]:
        del entry["seconds_finetune"]
    return outcome, watch


def test_a_run_of_several_budgets_resumes_in_any_of_them(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    whole, _ = _fit_list(fit, tuner, tmp_path / "whole")
    assert all("accuracy_finetuned" in entry for entry in whole["budgets"])
    for epoch in range(4):  # the last of prompt training, both of the first budget, one of the next
        saved = tmp_path / "whole" / "checkpoints" / f"epoch-{epoch}.ckpt"
        resumed, watch = _fit_list(fit, tuner, tmp_path / f"from-{epoch}", saved)
        assert watch.epochs[0] == epoch + 1
        assert len(watch.epochs) == 5 * (4 - epoch)
        assert _differences(whole, resumed) == []
        for name in "finetune_0.5-last", "finetune_0.1-last", "finetune_0.1-best":
            first, second = (
                tmp_path / run / "checkpoints" / f"{name}.ckpt"
                for run in ("whole", f"from-{epoch}")
            )
            if second.exists():
                states = (torch.load(p, weights_only=True)["state_dict"] for p in (first, second))
                assert _differences(*states) == []


def test_a_run_of_several_budgets_is_not_resumed_amid_them_with_others(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    _fit_list(fit, tuner, tmp_path)
    saved = tmp_path / "checkpoints" / "epoch-1.ckpt"
    for other in [0.5, 0.3], 0.5:
        condense = PromptCondensation(other, prompt_epochs=1, finetune_epochs=2)
        with pytest.raises(UsageError, match=r"during the fine-tuning of 0\.5, 0\.1 for 2 epochs"):
            fit(condense, tuner(), ckpt_path=saved)


@pytest.mark.parametrize("finetune_keep", [None, [0.1], []])
def test_the_prompts_of_a_finished_run_are_condensed_to_a_list(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path, finetune_keep: list[float] | None
) -> None:
    def run(keep: Any, folder: Path, ckpt_path: Path | None = None, **options: Any) -> Any:
        condense = PromptCondensation(keep, prompt_epochs=2, finetune_epochs=1, **options)
        torch.manual_seed(1)
        _, module, watch = fit(
            condense,
            tuner(),
            callbacks=[PhaseCheckpoint()],
            folder=folder,
            ckpt_path=ckpt_path,
        )
        return condense.report, module, watch

    alone, _, _ = run(0.1, tmp_path / "alone")
    last = tmp_path / "alone" / "checkpoints" / "prompt-last.ckpt"
    report, module, watch = run(
        [0.5, 0.1], tmp_path / "list", ckpt_path=last, finetune_keep=finetune_keep
    )
    wanted = [0.5, 0.1] if finetune_keep is None else finetune_keep
    assert len(watch.epochs) == 5 * len(wanted)
    assert [e["keep"] for e in report["budgets"] if "accuracy_finetuned" in e] == wanted
    small = report["budgets"][1]
    for figure in "kept", "accuracy_masked", *(["accuracy_finetuned"] if wanted else []):
        assert small[figure] == alone[figure]
    assert report["accuracy_before"] == alone["accuracy_before"]
    assert (tmp_path / "list" / "checkpoints" / "masked_0.5.ckpt").is_file()
    if not wanted:
        assert module.model.prompts.keep.all()
        assert torch.equal(
            module.model.prompts.values,
            torch.load(last, weights_only=True)["state_dict"]["model.prompts.values"],
        )


def test_worker_processes_read_in_the_order_of_the_resumed_epoch(
    fit: Fit, tuner: Callable[..., PromptTuner], task: Callable[..., Any], tmp_path: Path
) -> None:
    def run(folder: str, epoch: int | None = None) -> dict[str, Any]:
        copy = tmp_path / "whole" / "checkpoints" / f"epoch-{epoch}.ckpt"
        torch.manual_seed(1)
        condense = PromptCondensation([0.5, 0.1], prompt_epochs=2, finetune_epochs=2)
        _, module, _ = fit(
            condense,
            tuner(),
            task(num_workers=1),
            callbacks=[PhaseCheckpoint(), Copies()],
            folder=tmp_path / folder,
            ckpt_path=None if epoch is None else copy,
        )
        return {k: v for k, v in module.state_dict().items() if "metrics" not in k}

    whole = run("whole")
    for epoch in 0, 4:  # amid prompt training, amid the second budget
        assert _differences(whole, run(f"from-{epoch}", epoch)) == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_run_resumed_amid_any_epoch_equals_the_uninterrupted_one(
    fit: Fit,
    tuner: Callable[..., PromptTuner],
    task: Callable[..., Any],
    tmp_path: Path,
    workers: int,
    accumulated: int,
) -> None:
    def run(folder: str, ckpt_path: Path | None = None) -> tuple[dict[str, Any], Any]:
        condense = PromptCondensation([0.5, 0.1], prompt_epochs=2, finetune_epochs=2)
        torch.manual_seed(1)
        _, module, watch = fit(
            condense,
            tuner(prompt_dropout=0.3),
            task(num_workers=workers),
            callbacks=[PhaseCheckpoint(every_n_steps=1), EachStep()],
            folder=tmp_path / folder,
            ckpt_path=ckpt_path,
            accumulate_grad_batches=accumulated,
        )
        outcome = _outcome(module, condense)
        for entry in outcome["budgets"]:
            del entry["seconds_finetune"]
        return outcome, watch

    whole, _ = run("whole")
    saved = sorted((tmp_path / "whole" / "checkpoints").glob("step-*"))
    assert len(saved) == 6 * (4 // accumulated)  # the last of an epoch is saved at its end
    chosen = saved if (workers, accumulated) == (0, 1) else saved[:: len(saved) - 2]
    for file in chosen:
        resumed, watch = run(f"from-{file.stem}", file)
        _, epoch, batch = (int(n) if n.isdigit() else n for n in file.stem.split("-"))
        assert len(watch.epochs) == 30 - 5 * epoch - batch - 1
        assert _differences(whole, resumed) == []


class EachStep(Checkpoint):
    """Copies the last checkpoint that is saved amid an epoch."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        saved = list(folder.glob("*-last.ckpt"))
        if not saved:
            return
        newest = max(saved, key=lambda path: path.stat().st_mtime_ns)
        loop = torch.load(newest, weights_only=True)["loops"]["fit_loop"]
        batch = loop["epoch_loop.batch_progress"]["current"]["ready"] - 1
        if batch == args[-1] and loop["epoch_progress"]["current"]["started"] == (
            trainer.current_epoch + 1
        ):
            shutil.copy(newest, folder / f"step-{trainer.current_epoch}-{batch}.ckpt")


def test_time_amid_an_epoch_is_saved(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    condense = PromptCondensation(keep=None, prompt_epochs=1)
    fit(condense, tuner(), callbacks=[PhaseCheckpoint(every_n_steps=4), EachStep()])
    saved = torch.load(tmp_path / "checkpoints" / "step-0-3.ckpt", weights_only=True)
    taken = saved["callbacks"]["PromptCondensation"]["report"]["seconds_prompt"]
    assert 0 < taken < condense.report["seconds_prompt"]


def test_patience_knows_of_a_validation_before_the_run_was_resumed(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    def run(folder: str, ckpt_path: Path | None = None) -> dict[str, Any]:
        condense = PromptCondensation(prompt_epochs=3, finetune_epochs=1, patience=1)
        torch.manual_seed(1)
        _, module, _ = fit(
            condense,
            tuner(),
            callbacks=[PhaseCheckpoint(every_n_steps=1), EachStep()],
            folder=tmp_path / folder,
            ckpt_path=ckpt_path,
            val_check_interval=0.6,  # after the third batch of five
        )
        return _outcome(module, condense)

    whole = run("whole")
    saved = tmp_path / "whole" / "checkpoints" / "step-0-3.ckpt"
    assert _differences(whole, run("resumed", saved)) == []


def test_a_module_that_is_used_again_begins_anew(
    fit: Fit, tuner: Callable[..., PromptTuner], tmp_path: Path
) -> None:
    condense = PromptCondensation(keep=None, prompt_epochs=1)
    fit(condense, tuner(), callbacks=[PhaseCheckpoint(every_n_steps=4), EachStep()])
    module = tuner()
    saved = tmp_path / "checkpoints" / "step-0-3.ckpt"
    fit(PromptCondensation(keep=None, prompt_epochs=1), module, ckpt_path=saved)
    _, _, watch = fit(PromptCondensation(keep=None, prompt_epochs=1), module)
    assert len(watch.epochs) == 5
    assert torch.initial_seed() == 0  # that of the run, not of its last batch
