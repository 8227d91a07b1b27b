"""Several fractions in ``condense.keep``: one prompt training and one scoring for all of them."""

from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from factories import STEPS, Fit, Run, differences, make_tuner, scripted
from torch._dynamo.utils import counters

from pcvpt.callbacks import PhaseCheckpoint


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "merge"},
        {"method": "merge", "finetune_as": "token"},
        {"finetune_as": "key_value"},
        {"finetune_as": "key_value", "rewind": True},
        pytest.param({"rewind": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_each_budget_ends_bit_for_bit_as_in_a_run_of_its_own(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    def run(name: str, keep: Any) -> Run:
        torch.manual_seed(1)
        condense = {"keep": keep, "finetune_epochs": 2, **options}
        module = make_tuner(prompt_dropout=0.3)
        return factories.fit(tmp_path / name, condense, module, callbacks=[PhaseCheckpoint()])

    together = run("together", [0.5, 0.1])
    assert [entry["keep"] for entry in together.report["budgets"]] == [0.5, 0.1]
    for entry in together.report["budgets"]:
        budget = str(entry["keep"])
        alone = run(budget, entry["keep"])
        assert together.report["accuracy_before"] == alone.report["accuracy_before"]
        for figure in "kept", "accuracy_masked", "accuracy_finetuned":
            assert entry[figure] == alone.report[figure]
        assert entry["prompts_kept"] == sum(alone.report["kept"]) == round(entry["keep"] * 24)
        for name in "masked{}", "finetune{}-last", "finetune{}-best":
            ours = together.state(name.format(f"_{budget}"))
            assert differences(ours, alone.state(name.format(""))) == []
    ends = [together.state(f"finetune_{budget}-last") for budget in (0.5, 0.1)]
    assert differences(*ends)


def test_each_budget_starts_from_the_trained_state_with_its_own_optimizer(
    three_budgets: Run,
) -> None:
    watch, bank = three_budgets.watch, three_budgets.module.model.prompts
    first, second = STEPS, 2 * STEPS
    assert torch.equal(watch.prompts[first], watch.prompts[second])
    assert torch.equal(watch.heads[first], watch.heads[second])
    assert not torch.equal(watch.heads[second - 1], watch.heads[second])
    assert [watch.momenta[first], watch.momenta[second]] == [0, 0]
    assert watch.momenta[second - 1] > 0
    assert watch.optimizers[first] is not watch.optimizers[second]
    assert watch.rates[first:second] == watch.rates[second:]
    assert int(bank.keep.sum()) == 2
    assert torch.equal(bank.stack()[~bank.keep], watch.prompts[second][~bank.keep])
    assert not torch.equal(bank.stack()[bank.keep], watch.prompts[second][bank.keep])


def test_only_chosen_budgets_are_fine_tuned_in_order_and_small_masks_lie_in_larger_ones(
    three_budgets: Run,
) -> None:
    run = three_budgets
    assert run.trainer.current_epoch == 3
    assert run.watch.phases == ["prompt"] * STEPS + ["finetune"] * 2 * STEPS
    assert run.checkpoints() == {
        *("prompt-best", "prompt-last", "masked_0.1", "masked_0.3", "masked_0.5"),
        *("finetune_0.5-best", "finetune_0.5-last", "finetune_0.1-best", "finetune_0.1-last"),
    }
    small, middle, large = run.report["budgets"]
    assert small["seconds_finetune"] > 0 < large["seconds_finetune"]
    assert set(middle) == {"keep", "prompts_kept", "kept", "form", "accuracy_masked"}
    assert run.module.model.prompts.counts() == small["kept"]
    masks = [run.state(f"masked_{keep}")["model.prompts.keep"] for keep in (0.1, 0.3, 0.5)]
    assert bool((masks[0] <= masks[1]).all() and (masks[1] <= masks[2]).all())


def test_without_fine_tuning_a_run_ends_with_the_curve_and_all_prompts(fit: Fit) -> None:
    options = {"keep": [0.1, 0.5], "prompt_epochs": 2, "finetune_epochs": 9, "finetune_keep": []}
    run = fit(options, callbacks=[PhaseCheckpoint()])
    assert run.trainer.current_epoch == 2
    assert run.checkpoints() == {"prompt-best", "prompt-last", "masked_0.1", "masked_0.5"}
    assert [entry["prompts_kept"] for entry in run.report["budgets"]] == [2, 12]
    bank, masked = run.module.model.prompts, run.state("masked_0.5")
    assert torch.equal(bank.stack(), run.state("prompt-last")["model.prompts.values"])
    assert bool(bank.keep.all())
    assert run.module.phase_name == "prompt"
    assert torch.equal(masked["model.prompts.values"], bank.stack())
    kept = masked["model.prompts.keep"].sum(1).tolist()
    assert kept == run.report["budgets"][1]["kept"]


@pytest.mark.slow
def test_each_budget_has_its_best_also_after_an_early_end_of_prompt_training(fit: Fit) -> None:
    options = {"keep": [0.5, 0.1], "prompt_epochs": 9, "finetune_epochs": 2}
    options |= {"patience": 1, "monitor": "scripted"}
    falling = scripted(*range(9, 0, -1))
    run = fit(options, falling, callbacks=[PhaseCheckpoint(monitor="scripted")])
    names = "prompt-best", "finetune_0.5-best", "finetune_0.1-best", "finetune_0.1-last"
    assert [run.load(name)["epoch"] for name in names] == [0, 2, 4, 5]
    assert run.watch.rates[2 * STEPS : 4 * STEPS] == run.watch.rates[4 * STEPS :]
    assert all("accuracy_finetuned" in entry for entry in run.report["budgets"])


@pytest.mark.slow
def test_each_budget_is_compiled_however_many_there_are(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **o: compiled(*a, **{**o, "backend": "eager"}))
    module = make_tuner(compile=True)
    counters["stats"].clear()
    budgets = [0.1, 0.2, 0.3, 0.5]  # with the training before, two more than torch has room for
    fit({"keep": budgets}, module)
    assert counters["stats"]["unique_graphs"] == 2 * 5  # to train, and to evaluate
