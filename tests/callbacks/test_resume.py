"""A resumed run equals the uninterrupted one, bit for bit, with dropout and augmentation on."""

import shutil
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from factories import STEPS, Fit, Run, TinyData, differences, make_tuner, scripted
from lightning.pytorch.callbacks import Checkpoint

from pcvpt import UsageError
from pcvpt.callbacks import PhaseCheckpoint

slow = pytest.mark.slow


class CopyLast(Checkpoint):
    """Copies each last checkpoint to ``<epoch>-<batch>.ckpt``, as if the run were killed there."""

    def on_train_batch_end(self, trainer: Any, module: Any, out: Any, batch: Any, n: int) -> None:
        self._copy(trainer, n)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._copy(trainer, STEPS)

    def _copy(self, trainer: Any, batch: int) -> None:
        folder = Path(trainer.default_root_dir) / "checkpoints"
        for path in folder.glob("*-last.ckpt"):
            if torch.load(path, weights_only=True)["global_step"] == trainer.global_step:
                shutil.copy(path, folder / f"{trainer.current_epoch}-{batch}.ckpt")


def _train(folder: Path, condense: dict[str, Any], **options: Any) -> Run:
    """Fit with dropout; ``options`` may have the module, the data, and ``every_n_steps``."""
    torch.manual_seed(1)
    module = options.pop("module", None) or make_tuner(prompt_dropout=0.3)
    callbacks = [PhaseCheckpoint(every_n_steps=options.pop("every_n_steps", None)), CopyLast()]
    return factories.fit(folder, condense, module, callbacks=callbacks, **options)


ONE = {"prompt_epochs": 2, "finetune_epochs": 2}
TWO = {"keep": [0.5, 0.1], "prompt_epochs": 1, "finetune_epochs": 2, "rewind": True}


@pytest.fixture(scope="module")
def one_budget(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _train(tmp_path_factory.mktemp("one"), ONE)


@pytest.fixture(scope="module")
def two_budgets(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _train(tmp_path_factory.mktemp("two"), TWO)


def _require_same_rest(full: Run, resumed: Run, epoch: int) -> None:
    """Fail unless ``resumed``, from the end of ``epoch``, did the rest of ``full`` and no more."""
    assert resumed.watch.epochs == full.watch.epochs[STEPS * (epoch + 1) :]
    assert resumed.watch.rates == full.watch.rates[STEPS * (epoch + 1) :]
    assert differences(full.outcome(), resumed.outcome()) == []
    for name in {path.stem for path in resumed.folder.glob("checkpoints/finetune*")}:
        assert differences(full.state(name), resumed.state(name)) == []


@pytest.mark.parametrize("epoch", [1, 2, pytest.param(0, marks=slow)])
def test_a_resumed_run_equals_the_uninterrupted_one(
    one_budget: Run, tmp_path: Path, epoch: int
) -> None:
    resumed = _train(tmp_path, ONE, ckpt_path=one_budget.checkpoint(f"{epoch}-{STEPS}"))
    _require_same_rest(one_budget, resumed, epoch)
    assert not resumed.module.model.prompts.keep.all()


@pytest.mark.parametrize("epoch", [2, *(pytest.param(n, marks=slow) for n in (0, 1, 3))])
def test_a_run_of_several_budgets_resumes_in_any_of_them(
    two_budgets: Run, tmp_path: Path, epoch: int
) -> None:
    resumed = _train(tmp_path, TWO, ckpt_path=two_budgets.checkpoint(f"{epoch}-{STEPS}"))
    _require_same_rest(two_budgets, resumed, epoch)
    assert all("accuracy_finetuned" in entry for entry in resumed.report["budgets"])


@pytest.mark.parametrize("epoch", [1, pytest.param(0, marks=slow), pytest.param(2, marks=slow)])
def test_a_run_that_patience_ended_early_resumes_as_it_would_continue(
    tmp_path: Path, epoch: int
) -> None:
    condense = {"prompt_epochs": 3, "finetune_epochs": 2, "patience": 1, "monitor": "scripted"}
    script = (3.0, 2.0, 9.0, 9.0, 9.0)  # prompt training ends after two epochs
    full = _train(tmp_path / "full", condense, module=scripted(*script))
    saved = full.checkpoint(f"{epoch}-{STEPS}")
    resumed = _train(tmp_path / "on", condense, module=scripted(*script), ckpt_path=saved)
    assert full.trainer.current_epoch == resumed.trainer.current_epoch == 4
    # Heads differ by the draws of their initial values, which the checkpoint replaces.
    _require_same_rest(full, resumed, epoch)


@pytest.mark.parametrize(
    ("workers", "accumulated", "epoch", "batch"),
    [
        (0, 1, 0, 2),
        pytest.param(0, 2, 1, 3, marks=slow),
        pytest.param(1, 1, 3, 1, marks=slow),
        *(pytest.param(0, 1, n // 4, n % 4, marks=slow) for n in range(20) if n != 2),
    ],
)
def test_a_run_resumed_within_an_epoch_equals_the_uninterrupted_one(
    tmp_path: Path, workers: int, accumulated: int, epoch: int, batch: int
) -> None:
    options = {"every_n_steps": 1, "accumulate_grad_batches": accumulated}
    full, resumed = (
        _train(tmp_path / name, TWO, data=TinyData(num_workers=workers), ckpt_path=saved, **options)
        for name, saved in (
            ("full", None),
            ("resumed", tmp_path / "full" / "checkpoints" / f"{epoch}-{batch}.ckpt"),
        )
    )
    assert len(resumed.watch.epochs) == STEPS * (5 - epoch) - batch - 1
    assert differences(full.outcome(), resumed.outcome()) == []


@pytest.mark.parametrize(
    ("condense", "epochs"),
    [
        ({"prompt_epochs": 2}, [2] * STEPS),  # fewer
        ({"finetune_epochs": 2}, [2] * STEPS + [3] * STEPS),  # already passed
    ],
)
def test_other_numbers_of_epochs_may_be_given_when_resuming(
    fit: Fit, one_budget: Run, condense: dict[str, Any], epochs: list[int]
) -> None:
    saved = one_budget.checkpoint(f"1-{STEPS}")
    run = fit(condense, ckpt_path=saved)
    assert run.watch.epochs == epochs
    assert set(run.watch.phases) == {"finetune"}
    state = torch.load(saved, weights_only=True)["callbacks"]["PromptCondensation"]
    assert run.report["seconds_prompt"] >= state["report"]["seconds_prompt"] > 0


def test_a_resumed_run_may_rewind_although_the_first_did_not(one_budget: Run, fit: Fit) -> None:
    saved = one_budget.checkpoint(f"1-{STEPS}")
    run = fit({"prompt_epochs": 2, "rewind": True}, ckpt_path=saved)
    assert torch.equal(run.watch.prompts[0], one_budget.watch.prompts[0])


def test_a_run_of_several_budgets_is_not_resumed_within_them_with_others(
    fit: Fit, two_budgets: Run
) -> None:
    for other in [0.5, 0.3], 0.5:
        condense, saved = {"keep": other, "finetune_epochs": 2}, f"1-{STEPS}"
        with pytest.raises(UsageError, match=r"fine-tuning of 0\.5, 0\.1 for 2 epochs"):
            fit(condense, ckpt_path=two_budgets.checkpoint(saved))


@pytest.mark.parametrize("finetune_keep", [[0.3], [], pytest.param(None, marks=slow)])
def test_the_prompts_of_a_finished_run_are_condensed_to_a_list(
    fit: Fit, one_budget: Run, finetune_keep: list[float] | None
) -> None:
    last, module = one_budget.checkpoint("prompt-last"), make_tuner(prompt_dropout=0.3)
    condense = {**ONE, "keep": [0.5, 0.3], "finetune_keep": finetune_keep}
    run = fit(condense, module, callbacks=[PhaseCheckpoint()], ckpt_path=last)
    wanted = [0.5, 0.3] if finetune_keep is None else finetune_keep
    entries = run.report["budgets"]
    assert len(run.watch.epochs) == 2 * STEPS * len(wanted)
    assert [entry["keep"] for entry in entries if "accuracy_finetuned" in entry] == wanted
    for figure in "kept", "accuracy_masked", *(["accuracy_finetuned"] if wanted else []):
        assert entries[1][figure] == one_budget.report[figure]
    assert run.report["accuracy_before"] == one_budget.report["accuracy_before"]
    assert {"masked_0.5", "masked_0.3"} <= run.checkpoints()
    if not wanted:
        assert module.model.prompts.keep.all()
        trained = torch.load(last, weights_only=True)["state_dict"]["model.prompts.values"]
        assert torch.equal(module.model.prompts.values, trained)


def test_the_time_within_an_epoch_is_saved_and_a_module_can_be_trained_again(fit: Fit) -> None:
    plain, module = {"keep": None}, make_tuner()
    run = fit(plain, callbacks=[PhaseCheckpoint(every_n_steps=4), CopyLast()])
    state = run.load("0-3")["callbacks"]["PromptCondensation"]
    assert 0 < state["report"]["seconds_prompt"] < run.report["seconds_prompt"]
    fit(plain, module, ckpt_path=run.checkpoint("0-3"))
    assert len(fit(plain, module).watch.epochs) == STEPS
    assert torch.initial_seed() == 0  # that of the run, not of its last batch


@slow
def test_patience_knows_of_a_validation_before_the_run_was_resumed(tmp_path: Path) -> None:
    condense = {"prompt_epochs": 3, "patience": 1}
    options = {"every_n_steps": 1, "val_check_interval": 0.6}  # after the third batch of five
    full = _train(tmp_path / "full", condense, **options)
    resumed = _train(tmp_path / "on", condense, ckpt_path=full.checkpoint("0-3"), **options)
    assert differences(full.outcome(), resumed.outcome()) == []
