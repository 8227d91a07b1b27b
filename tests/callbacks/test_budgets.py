"""Several fractions in ``condense.keep``: one prompt training and one scoring for all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import pcvpt.training.evaluation
from pcvpt import PromptCondensation, PromptTuner, UsageError
from pcvpt.callbacks import PhaseCheckpoint

STEPS = 5  # of an epoch
Fit = Callable[..., Any]
Tuner = Callable[..., PromptTuner]


class Scripted(PromptTuner):
    """Replaces the monitored metric by one that falls from epoch to epoch."""

    def on_validation_epoch_end(self) -> None:
        self.log("scripted", -float(self.current_epoch))


def _state(folder: Path, name: str) -> dict[str, Tensor]:
    saved = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    state: dict[str, Tensor] = saved["state_dict"]
    return state


def _names(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "checkpoints").iterdir()}


def _same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rewind", [False, True])
def test_each_budget_ends_bit_for_bit_as_in_a_run_of_its_own(
    fit: Fit, tuner: Tuner, tmp_path: Path, rewind: bool
) -> None:
    def run(name: str, keep: Any) -> dict[str, Any]:
        torch.manual_seed(1)
        condense = PromptCondensation(keep, prompt_epochs=2, finetune_epochs=2, rewind=rewind)
        module = tuner(prompt_dropout=0.3)
        fit(condense, module, callbacks=[PhaseCheckpoint()], folder=tmp_path / name)
        return condense.report

    report = run("all", [0.5, 0.1, 0.3])
    assert [entry["keep"] for entry in report["budgets"]] == [0.5, 0.1, 0.3]
    for entry in report["budgets"]:
        budget = str(entry["keep"])
        alone = run(budget, entry["keep"])
        assert report["accuracy_before"] == alone["accuracy_before"]
        for figure in "kept", "accuracy_masked", "accuracy_finetuned":
            assert entry[figure] == alone[figure]
        assert entry["prompts_kept"] == sum(alone["kept"]) == round(entry["keep"] * 24)
        for ours, theirs in (
            (f"masked_{budget}", "masked"),
            (f"finetune_{budget}-last", "finetune-last"),
            (f"finetune_{budget}-best", "finetune-best"),
        ):
            assert _same(_state(tmp_path / "all", ours), _state(tmp_path / budget, theirs))
    ends = [_state(tmp_path / "all", f"finetune_{b}-last") for b in ("0.5", "0.1", "0.3")]
    assert not _same(ends[0], ends[1])
    assert not _same(ends[1], ends[2])


def test_one_scoring_serves_all_budgets_and_smaller_ones_lie_in_larger(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def counting(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return scored(*args, **options)

    scored = pcvpt.training.evaluation.score_with_halves
    monkeypatch.setattr(pcvpt.training.evaluation, "score_with_halves", counting)
    condense = PromptCondensation([0.1, 0.3, 0.5], prompt_epochs=1, finetune_epochs=1)
    trainer, _, watch = fit(condense, callbacks=[PhaseCheckpoint()])
    assert len(calls) == 1
    assert trainer.current_epoch == 4
    assert watch.phases == ["prompt"] * STEPS + ["finetune"] * 3 * STEPS
    small, middle, large = (
        _state(tmp_path, f"masked_{keep}")["model.prompts.keep"] for keep in (0.1, 0.3, 0.5)
    )
    assert bool((small <= middle).all())
    assert bool((middle <= large).all())


def test_each_budget_starts_from_the_trained_state_with_an_optimizer_of_its_own(fit: Fit) -> None:
    condense = PromptCondensation([0.5, 0.1], prompt_epochs=1, finetune_epochs=2)
    _, module, watch = fit(condense)
    first, second = STEPS, 3 * STEPS
    assert torch.equal(watch.prompts[first], watch.prompts[second])
    assert torch.equal(watch.heads[first], watch.heads[second])
    assert not torch.equal(watch.heads[second - 1], watch.heads[second])
    assert [watch.momenta[first], watch.momenta[second]] == [0, 0]
    assert watch.momenta[second - 1] > 0
    assert watch.optimizers[first] is not watch.optimizers[second]
    assert watch.rates[first:second] == watch.rates[second:]
    keep = module.model.prompts.keep
    assert int(keep.sum()) == 2
    at_end = module.model.prompts.stack()
    assert torch.equal(at_end[~keep], watch.prompts[second][~keep])
    assert not torch.equal(at_end[keep], watch.prompts[second][keep])


def test_only_those_asked_for_are_fine_tuned_in_the_order_asked_for(
    fit: Fit, tmp_path: Path
) -> None:
    condense = PromptCondensation(
        [0.1, 0.3, 0.5], prompt_epochs=1, finetune_epochs=1, finetune_keep=[0.5, 0.1]
    )
    trainer, module, _ = fit(condense, callbacks=[PhaseCheckpoint()])
    assert trainer.current_epoch == 3
    assert _names(tmp_path) == {
        *("prompt-best", "prompt-last", "masked_0.1", "masked_0.3", "masked_0.5"),
        *("finetune_0.5-best", "finetune_0.5-last", "finetune_0.1-best", "finetune_0.1-last"),
    }
    small, middle, large = condense.report["budgets"]
    assert small["accuracy_finetuned"] >= 0 <= large["accuracy_finetuned"]
    assert small["seconds_finetune"] > 0 < large["seconds_finetune"]
    assert set(middle) == {"keep", "prompts_kept", "kept", "accuracy_masked"}
    assert module.model.prompts.counts() == small["kept"]


def test_a_list_of_one_is_the_same_as_the_number(fit: Fit, tmp_path: Path) -> None:
    reports = []
    for name, keep in ("number", 0.3), ("list", [0.3]):
        torch.manual_seed(1)
        condense = PromptCondensation(keep, prompt_epochs=1, finetune_epochs=1)
        fit(condense, callbacks=[PhaseCheckpoint()], folder=tmp_path / name)
        reports.append({k: v for k, v in condense.report.items() if "seconds" not in k})
    assert reports[0] == reports[1]
    assert _names(tmp_path / "number") == _names(tmp_path / "list")
    ends = [_state(tmp_path / name, "finetune-last") for name in ("number", "list")]
    assert _same(*ends)


def test_with_none_to_fine_tune_the_run_ends_with_the_curve_and_all_prompts(
    fit: Fit, tmp_path: Path
) -> None:
    condense = PromptCondensation([0.1, 0.5], prompt_epochs=2, finetune_epochs=9, finetune_keep=[])
    trainer, module, watch = fit(condense, callbacks=[PhaseCheckpoint()])
    assert trainer.current_epoch == 2
    assert set(watch.phases) == {"prompt"}
    assert _names(tmp_path) == {"prompt-best", "prompt-last", "masked_0.1", "masked_0.5"}
    assert [entry["prompts_kept"] for entry in condense.report["budgets"]] == [2, 12]
    last = _state(tmp_path, "prompt-last")
    bank = module.model.prompts
    assert torch.equal(bank.stack(), last["model.prompts.values"])
    assert bool(bank.keep.all())
    assert module.phase_name == "prompt"
    assert torch.equal(_state(tmp_path, "masked_0.5")["model.prompts.values"], bank.stack())
    kept = _state(tmp_path, "masked_0.5")["model.prompts.keep"]
    assert kept.sum(1).tolist() == condense.report["budgets"][1]["kept"]


def test_the_accuracies_are_those_of_the_saved_models(
    fit: Fit, tuner: Tuner, evaluate: Callable[..., tuple[float, float]], tmp_path: Path
) -> None:
    condense = PromptCondensation([0.5, 0.1], prompt_epochs=2, finetune_epochs=1)
    fit(condense, tuner(prompt_dropout=0.8), callbacks=[PhaseCheckpoint()])
    found = []
    for entry in condense.report["budgets"]:
        for name, figure in (
            (f"masked_{entry['keep']}", "accuracy_masked"),
            (f"finetune_{entry['keep']}-last", "accuracy_finetuned"),
        ):
            module = tuner()
            module.load_state_dict(_state(tmp_path, name), strict=False)
            assert entry[figure] == pytest.approx(evaluate(module)[0])
            found.append(entry[figure])
    assert len(set(found)) > 1


def test_best_is_counted_anew_for_each_budget(fit: Fit, tuner: Tuner, tmp_path: Path) -> None:
    module = tuner()
    module.__class__ = Scripted
    condense = PromptCondensation([0.5, 0.1], prompt_epochs=2, finetune_epochs=2)
    fit(condense, module, callbacks=[PhaseCheckpoint(monitor="scripted")])
    epochs = {
        name: torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("prompt-best", "finetune_0.5-best", "finetune_0.1-best", "finetune_0.1-last")
    }
    assert list(epochs.values()) == [0, 2, 4, 5]


def test_budgets_follow_an_early_end_of_prompt_training(fit: Fit, tuner: Tuner) -> None:
    module = tuner()
    module.__class__ = Scripted
    condense = PromptCondensation(
        [0.5, 0.1], prompt_epochs=9, finetune_epochs=2, patience=1, monitor="scripted"
    )
    trainer, _, watch = fit(condense, module)
    assert trainer.current_epoch == 2 + 2 * 2
    assert watch.rates[2 * STEPS : 4 * STEPS] == watch.rates[4 * STEPS :]
    assert all("accuracy_finetuned" in entry for entry in condense.report["budgets"])


def test_none_of_several_need_epochs_of_fine_tuning_when_none_is_fine_tuned() -> None:
    PromptCondensation([0.5, 0.1], finetune_epochs=0, finetune_keep=[])
    with pytest.raises(UsageError, match="finetune_epochs=0"):
        PromptCondensation([0.5, 0.1], finetune_epochs=0, finetune_keep=[0.1])


@pytest.mark.parametrize("rewind", [False, True])
def test_what_is_masked_is_saved_as_it_was_evaluated(
    fit: Fit, tmp_path: Path, rewind: bool
) -> None:
    condense = PromptCondensation(0.5, prompt_epochs=1, finetune_epochs=1, rewind=rewind)
    fit(condense, callbacks=[PhaseCheckpoint()])
    trained, masked = (_state(tmp_path, name) for name in ("prompt-last", "masked"))
    assert torch.equal(trained["model.prompts.values"], masked["model.prompts.values"])


@pytest.mark.slow
def test_each_budget_is_compiled_however_many_there_are(fit: Fit, tuner: Tuner) -> None:
    module = tuner()
    module.model.compile(backend="eager")
    module._compiled = True
    counters["stats"].clear()
    budgets = [0.1, 0.2, 0.3, 0.5]  # with the training before, two more than torch has room for
    fit(PromptCondensation(budgets, prompt_epochs=1, finetune_epochs=1), module)
    assert counters["stats"]["unique_graphs"] == 2 * 5  # to train, and to evaluate
