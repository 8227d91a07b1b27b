from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from factories import (
    LAYERS,
    PROMPTS,
    STEPS,
    Fit,
    Run,
    TinyData,
    accuracies,
    differences,
    make_trainer,
    make_tuner,
    scripted,
)
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor

from pcvpt import PromptCondensation, PromptTuner, UsageError
from pcvpt.callbacks import PhaseCheckpoint
from pcvpt.training import score_and_mask

slow = pytest.mark.slow
FIRST, SECOND = slice(0, 2 * STEPS), slice(2 * STEPS, 4 * STEPS)


def test_both_phases_are_trained_each_with_an_optimizer_without_old_momentum(
    two_phases: Run,
) -> None:
    watch, trainer = two_phases.watch, two_phases.trainer
    assert (trainer.current_epoch, trainer.global_step) == (4, 4 * STEPS)
    assert watch.phases == ["prompt"] * 2 * STEPS + ["finetune"] * 2 * STEPS
    assert two_phases.module.phase_name == "finetune"
    first, second = watch.optimizers[0], watch.optimizers[-1]
    assert all(optimizer is first for optimizer in watch.optimizers[FIRST])
    assert all(optimizer is second for optimizer in watch.optimizers[SECOND])
    assert first is not second
    assert trainer.optimizers == [second]
    assert watch.momenta[2 * STEPS - 1] > 0 == watch.momenta[2 * STEPS]


def test_the_learning_rate_warms_up_again_and_ends_near_zero_in_each_phase(two_phases: Run) -> None:
    rates, full = two_phases.watch.rates, 0.5 * 8 / 256
    assert rates[:6] == pytest.approx([full * step / 6 for step in range(1, 7)])
    assert rates[SECOND][:3] == pytest.approx([full / 2 * step / 3 for step in range(1, 4)])
    for phase, warmup in (rates[FIRST], 5), (rates[SECOND], 2):
        assert phase[warmup:] == sorted(phase[warmup:], reverse=True)
        assert phase[-1] < 0.12 * max(phase)


def test_the_prompts_with_the_highest_stored_scores_alone_are_keys_of_attention(
    two_phases: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, keys, attend = two_phases.module.model.prompts, [], F.scaled_dot_product_attention
    assert sum(bank.counts()) == round(0.3 * LAYERS * PROMPTS)
    assert bank.scores[bank.keep].min() >= bank.scores[~bank.keep].max()
    assert bank.scores.unique().numel() > 12

    def spy(query: Tensor, key: Tensor, *args: Any, **options: Any) -> Tensor:
        keys.append(key.shape[2])
        return attend(query, key, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        two_phases.module.eval()(torch.zeros(1, 3, 32, 32))
    # The single query of the last block goes around the fused attention.
    assert keys == [1 + 16 + count for count in bank.counts()[:-1]]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"count": 5}, 5),
        ({"max_drop": 0.0}, None),
        pytest.param({"max_drop": 100.0}, 1, marks=slow),
    ],
)
def test_other_budgets_keep_as_many_prompts_as_they_ask_for(
    fit: Fit, options: dict[str, Any], kept: int | None
) -> None:
    run = fit({"keep": None, **options})
    assert run.report["prompts"] == LAYERS * PROMPTS
    assert run.report["kept"] == run.module.model.prompts.counts()
    assert kept in (None, sum(run.report["kept"]))
    if kept is None:
        assert run.report["accuracy_masked"] >= run.report["accuracy_before"]


def test_keep_null_is_plain_prompt_tuning(plain: Run) -> None:
    assert plain.trainer.current_epoch == 2
    assert set(plain.watch.phases) == {"prompt"}
    assert plain.module.model.prompts.keep.all()
    assert plain.module.model.prompts.scores.isnan().all()
    assert set(plain.report) == {"accuracy_before", "seconds_prompt"}
    assert plain.watch.rates[-1] < 0.12 * max(plain.watch.rates)
    assert plain.checkpoints() == {"prompt-best", "prompt-last"}


@pytest.mark.parametrize(
    ("script", "options", "epochs"),
    [
        ((1, 3, 2, 3, 0, 0), {"prompt_epochs": 8, "patience": 2}, 4),  # ends early
        # Stops at the bound.
        pytest.param((1, 0, 2, 1, 3, 9), {"prompt_epochs": 5, "patience": 2}, 5, marks=slow),
        # Plain VPT too.
        pytest.param((1, 1, 1), {"prompt_epochs": 6, "patience": 2, "keep": None}, 3, marks=slow),
    ],
)
def test_patience_ends_prompt_training_and_fine_tuning_follows(
    fit: Fit, script: tuple[float, ...], options: dict[str, Any], epochs: int
) -> None:
    options = {"monitor": "scripted", **options}
    run = fit(options, scripted(*script), callbacks=[PhaseCheckpoint()])
    finetune = 0 if "keep" in options else 1
    assert run.trainer.current_epoch == epochs + finetune
    assert run.watch.phases == ["prompt"] * epochs * STEPS + ["finetune"] * finetune * STEPS
    if finetune:
        assert not run.state("masked")["model.prompts.keep"].all()
        assert run.watch.rates[-STEPS:] == sorted(run.watch.rates[-STEPS:])  # a warm-up


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": None, "count": 0}, "count=0"),
        ({"keep": 0.3, "max_drop": 1.0}, "max_drop=1.0"),
        ({"keep": None, "max_drop": -1.0}, "max_drop=-1.0"),
        ({"prompt_epochs": 0}, "prompt_epochs=0"),
        ({"finetune_epochs": 0}, "finetune_epochs=0"),
        ({"keep": [0.5, 0.1], "finetune_epochs": 0, "finetune_keep": [0.1]}, "finetune_epochs=0"),
        ({"patience": 0}, "patience=0"),
        ({"score": "gats"}, "condense.score='gats'"),
        ({"scope": "galaxy"}, "condense.scope='galaxy'"),
        ({"method": "melt"}, "condense.method='melt'"),
        ({"finetune_as": "prefix"}, "condense.finetune_as='prefix'"),
        ({"method": "merge", "rewind": True}, "condense.rewind=true"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named.replace(".", r"\.")):
        PromptCondensation(**options)


def test_accumulated_batches_are_not_more_images_to_merge_by(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals, evenly = [], score_and_mask.evenly

    def noted(batches: Any, total: int) -> Any:
        totals.append(total)
        return evenly(batches, total)

    monkeypatch.setattr(score_and_mask, "evenly", noted)
    for accumulated in (1, 2):
        fit({"method": "merge"}, accumulate_grad_batches=accumulated)
    assert totals[0] == totals[1]
    images = len(TinyData().read_splits().train)
    assert images <= totals[0] < 2 * images


class Training(Callback):
    def on_train_batch_start(self, *_: Any) -> None:
        raise AssertionError("training began")


@pytest.mark.parametrize(
    ("condense", "module", "named"),
    [
        ({"keep": None, "count": 25}, {}, r"count=25.*24"),
        ({}, {"mode": "linear", "num_prompts": 0}, r"linear.*condense\.keep=null"),
        ({"method": "merge", "finetune_as": "key_value"}, {"mode": "shallow"}, "mode 'shallow'"),
        ({"finetune_as": "key_value"}, {"execution": "tokens"}, "execution='tokens'"),
        ({"finetune_as": "token"}, {"mode": "prefix"}, r"condense\.finetune_as='token'"),
        (
            {"method": "merge", "finetune_as": "token"},
            {"mode": "prefix"},
            "prompts are of form 'key_value'",
        ),
    ],
)
def test_what_a_model_has_no_prompts_for_is_refused_before_training(
    fit: Fit, condense: dict[str, Any], module: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        fit(condense, make_tuner(**module), callbacks=[Training()])


def test_nothing_is_chosen_by_images_that_are_trained_on_or_a_metric_that_is_not_logged(
    fit: Fit,
) -> None:
    with pytest.raises(UsageError, match=r"condense\.monitor='val/acuracy'"):
        fit({"patience": 1, "monitor": "val/acuracy"})
    data = TinyData()
    data.held_out = False
    with pytest.raises(UsageError, match=r"condense\.patience and condense\.max_drop"):
        fit({"patience": 1}, data=data)


def test_another_module_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="BoringModel"):
        make_trainer(tmp_path, [PromptCondensation(prompt_epochs=1)]).fit(BoringModel())


def test_the_report_has_seconds_and_the_accuracies_of_the_saved_models(
    two_phases: Run, three_budgets: Run
) -> None:
    found = set()
    for run in two_phases, three_budgets:
        expected = {"prompt-last": run.report["accuracy_before"]}
        for entry in run.report.get("budgets", [run.report]):
            budget = f"_{entry['keep']}" if "keep" in entry else ""
            expected[f"masked{budget}"] = entry["accuracy_masked"]
            if "accuracy_finetuned" in entry:
                expected[f"finetune{budget}-last"] = entry["accuracy_finetuned"]
        for name, accuracy in expected.items():
            module = make_tuner()
            module.load_state_dict(run.state(name), strict=False)
            assert accuracy == pytest.approx(accuracies(module)[0])
        found |= {*expected.values()}
    assert len(found) > 1
    seconds = {name: v for name, v in two_phases.report.items() if name.startswith("seconds")}
    assert set(seconds) == {"seconds_prompt", "seconds_condense", "seconds_finetune"}
    assert min(seconds.values()) > 0


def test_callbacks_are_told_by_the_methods_that_they_have(fit: Fit) -> None:
    told: list[str] = []

    class Trained(Callback):
        def on_prompts_trained(self, trainer: Any, pl_module: PromptTuner) -> None:
            told.append(f"trained {sum(pl_module.model.prompts.counts())} {pl_module.phase_name}")

    class Masked(Callback):
        def on_prompts_masked(self, trainer: Any, pl_module: PromptTuner, budget: str) -> None:
            told.append(f"masked {budget} {sum(pl_module.model.prompts.counts())}")

    fit({"keep": [0.5, 0.25], "finetune_keep": []}, callbacks=[Trained(), Masked()])
    assert told == ["trained 24 prompt", "masked 0.5 12", "masked 0.25 6"]


def test_a_seed_reproduces_a_run_bit_for_bit_and_others_differ(fit: Fit) -> None:
    def trained(seed: int, data: TinyData | None = None) -> dict[str, Any]:
        torch.manual_seed(0)
        run = fit({"keep": None}, make_tuner(prompt_dropout=0.3), data, seed=seed)
        return {n: p.detach() for n, p in run.module.named_parameters() if p.requires_grad}

    first = trained(7)
    assert differences(first, trained(7)) == []
    assert differences(first, trained(8)) == list(first)  # dropout alone draws others
    assert differences(first, trained(7, TinyData(seed=1)))  # other order
