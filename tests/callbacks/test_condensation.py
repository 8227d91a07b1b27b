from collections.abc import Callable
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
import torch.nn.functional as F
from factories import LAYERS, PROMPTS, STEPS, Run, accuracies, make_trainer, make_tuner, recipe
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor

from pcvpt import PromptCondensation, PromptTuner, UsageError
from pcvpt.callbacks import PhaseCheckpoint

slow = pytest.mark.slow
FIRST, SECOND = slice(0, 2 * STEPS), slice(2 * STEPS, 4 * STEPS)
Fit = Callable[..., Run]


class Scripted(PromptTuner):
    """Logs a metric whose value in each epoch is given."""

    script: tuple[float, ...] = ()

    def on_validation_epoch_end(self) -> None:
        self.log("scripted", self.script[self.current_epoch])


def _scripted(*script: float) -> PromptTuner:
    module = make_tuner(Scripted)
    module.script = script
    return module


def test_the_epochs_of_both_phases_add_up(two_phases: Run) -> None:
    assert two_phases.trainer.current_epoch == 4
    assert two_phases.trainer.global_step == 4 * STEPS
    assert two_phases.watch.phases == ["prompt"] * 2 * STEPS + ["finetune"] * 2 * STEPS
    assert two_phases.module.phase_name == "finetune"


def test_fine_tuning_has_an_optimizer_of_its_own_without_old_momentum(two_phases: Run) -> None:
    watch = two_phases.watch
    first, second = watch.optimizers[0], watch.optimizers[-1]
    assert all(optimizer is first for optimizer in watch.optimizers[FIRST])
    assert all(optimizer is second for optimizer in watch.optimizers[SECOND])
    assert first is not second
    assert two_phases.trainer.optimizers == [second]
    assert watch.momenta[2 * STEPS - 1] > 0
    assert watch.momenta[2 * STEPS] == 0


def test_the_learning_rate_warms_up_again_and_ends_near_zero_in_each_phase(fit: Fit) -> None:
    module = make_tuner(finetune=recipe(base_lr=0.25, warmup_epochs=0.4))
    rates = fit(PromptCondensation(prompt_epochs=2, finetune_epochs=2), module).watch.rates
    full = 0.5 * 8 / 256
    assert rates[:6] == pytest.approx([full * step / 6 for step in range(1, 7)])
    assert rates[SECOND][:3] == pytest.approx([full / 2 * step / 3 for step in range(1, 4)])
    for phase, warmup in (rates[FIRST], 5), (rates[SECOND], 2):
        assert phase[warmup:] == sorted(phase[warmup:], reverse=True)
        assert phase[-1] < 0.12 * max(phase)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masked_prompts_never_change_again_under_decay_and_momentum(
    fit: Fit, optimizer: str
) -> None:
    strong = recipe(base_lr=5.0, weight_decay=0.5)
    if optimizer == "adamw":
        strong = recipe(optimizer=torch.optim.AdamW, base_lr=0.3, weight_decay=1.0)
    run = fit(module=make_tuner(prompt=strong, finetune=strong))
    keep, prompts = run.module.model.prompts.keep, run.watch.prompts
    assert 0 < keep.sum() < keep.numel()
    at_change, at_end = prompts[STEPS], run.module.model.prompts.values.detach()
    assert torch.equal(at_change[~keep], at_end[~keep])
    assert (at_change[keep] != at_end[keep]).any(dim=1).all()
    assert (prompts[STEPS - 1] != at_change).any(dim=2).all()  # while all are trained, all move


def test_masked_prompts_are_no_keys_of_attention(
    two_phases: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, attend = [], F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, *args: Any, **options: Any) -> Tensor:
        keys.append(key.shape[2])
        return attend(query, key, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    module = two_phases.module.eval()
    with torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    # The single query of the last block goes around the fused attention.
    assert keys == [1 + 16 + count for count in module.model.prompts.counts()[:-1]]
    assert sum(module.model.prompts.counts()) == round(0.3 * LAYERS * PROMPTS)


def test_the_kept_prompts_are_those_with_the_highest_stored_scores(two_phases: Run) -> None:
    bank = two_phases.module.model.prompts
    assert bank.scores[bank.keep].min() >= bank.scores[~bank.keep].max()
    assert bank.scores.unique().numel() > 12


@pytest.mark.parametrize(
    ("options", "kept"), [({"count": 5}, 5), ({"max_drop": 100.0}, 1), ({"max_drop": 0.0}, None)]
)
def test_other_budgets_keep_as_many_prompts_as_they_ask_for(
    fit: Fit, options: dict[str, Any], kept: int | None
) -> None:
    run = fit(PromptCondensation(keep=None, prompt_epochs=1, finetune_epochs=1, **options))
    assert run.report["prompts"] == LAYERS * PROMPTS
    assert run.report["kept"] == run.module.model.prompts.counts()
    assert kept in (None, sum(run.report["kept"]))
    if kept is None:
        assert run.report["accuracy_masked"] >= run.report["accuracy_before"]


def test_rewinding_starts_fine_tuning_from_the_initial_prompts(fit: Fit, two_phases: Run) -> None:
    run = fit(PromptCondensation(prompt_epochs=1, finetune_epochs=1, rewind=True))
    prompts, heads = run.watch.prompts, run.watch.heads
    assert torch.equal(prompts[STEPS], prompts[0])
    assert not torch.equal(prompts[STEPS - 1], prompts[0])
    assert not torch.equal(heads[STEPS], heads[0])
    assert not torch.equal(run.module.model.prompts.values, prompts[0])
    assert not torch.equal(two_phases.watch.prompts[2 * STEPS], two_phases.watch.prompts[0])


def test_keep_null_is_plain_prompt_tuning(plain: Run) -> None:
    assert plain.trainer.current_epoch == 2
    assert set(plain.watch.phases) == {"prompt"}
    assert plain.module.model.prompts.keep.all()
    assert plain.module.model.prompts.scores.isnan().all()
    assert set(plain.report) == {"accuracy_before", "seconds_prompt"}
    assert plain.watch.rates[-1] < 0.12 * max(plain.watch.rates)


@pytest.mark.parametrize(
    ("script", "options", "epochs"),
    [
        ((1, 3, 2, 3, 0, 0), {"prompt_epochs": 8, "patience": 2}, 4),  # ends early
        # Stops at the bound.
        pytest.param((1, 0, 2, 1, 3, 9), {"prompt_epochs": 5, "patience": 2}, 5, marks=slow),
        ((1, 1, 1), {"prompt_epochs": 6, "patience": 2, "keep": None}, 3),  # plain VPT too
    ],
)
def test_patience_ends_prompt_training_and_fine_tuning_follows(
    fit: Fit, script: tuple[float, ...], options: dict[str, Any], epochs: int
) -> None:
    condense = PromptCondensation(finetune_epochs=1, monitor="scripted", **options)
    run = fit(condense, _scripted(*script), callbacks=[PhaseCheckpoint()])
    finetune = 0 if "keep" in options else 1
    assert run.trainer.current_epoch == epochs + finetune
    assert run.watch.phases == ["prompt"] * epochs * STEPS + ["finetune"] * finetune * STEPS
    if finetune:
        assert not run.state("masked")["model.prompts.keep"].all()
        rates = run.watch.rates[-STEPS:]
        assert rates == sorted(rates)  # a warm-up of one epoch


def test_patience_on_a_metric_that_is_not_logged_is_refused_by_name(fit: Fit) -> None:
    with pytest.raises(UsageError, match=r"condense\.monitor='val/acuracy'"):
        fit(PromptCondensation(prompt_epochs=2, patience=1, monitor="val/acuracy"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"keep": None, "count": 0}, "count=0"),
        ({"keep": 0.3, "count": 5}, "count=5"),
        ({"keep": 0.3, "max_drop": 1.0}, "max_drop=1.0"),
        ({"keep": None, "max_drop": -1.0}, "max_drop=-1.0"),
        ({"prompt_epochs": 0}, "prompt_epochs=0"),
        ({"finetune_epochs": 0}, "finetune_epochs=0"),
        ({"keep": [0.5, 0.1], "finetune_epochs": 0, "finetune_keep": [0.1]}, "finetune_epochs=0"),
        ({"patience": 0}, "patience=0"),
        ({"score": "gats"}, "condense.score='gats'"),
        ({"scope": "galaxy"}, "condense.scope='galaxy'"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named.replace(".", r"\.")):
        PromptCondensation(**options)


def test_without_fine_tuning_its_epochs_may_be_none() -> None:
    assert PromptCondensation([0.5, 0.1], finetune_epochs=0, finetune_keep=[]).total_epochs == 100


class Started(Callback):
    training = False

    def on_train_batch_start(self, *_: Any) -> None:
        self.training = True


@pytest.mark.parametrize(
    ("condense", "module", "named"),
    [
        ({"keep": None, "count": 25}, {}, r"count=25.*24"),
        ({}, {"mode": "linear", "num_prompts": 0}, r"linear.*condense\.keep=null"),
    ],
)
def test_what_a_model_has_no_prompts_for_is_refused_before_training(
    fit: Fit, condense: dict[str, Any], module: dict[str, Any], named: str
) -> None:
    started = Started()
    with pytest.raises(UsageError, match=named):
        fit(PromptCondensation(**condense), make_tuner(**module), callbacks=[started])
    assert not started.training


def test_nothing_is_chosen_by_images_that_are_trained_on(fit: Fit) -> None:
    data = factories.TinyData()
    data.held_out = False
    with pytest.raises(UsageError, match=r"condense\.patience and condense\.max_drop"):
        fit(PromptCondensation(patience=1), data=data)


def test_another_module_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="BoringModel"):
        make_trainer(tmp_path, [PromptCondensation(prompt_epochs=1)]).fit(BoringModel())


def test_the_reported_accuracies_are_those_of_the_saved_models(
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


def test_each_stage_has_its_seconds(two_phases: Run) -> None:
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

    condense = PromptCondensation([0.5, 0.25], prompt_epochs=1, finetune_keep=[])
    fit(condense, callbacks=[Trained(), Masked()])
    assert told == ["trained 24 prompt", "masked 0.5 12", "masked 0.25 6"]
