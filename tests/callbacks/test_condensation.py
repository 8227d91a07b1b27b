from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor

from pcvpt import PhaseRecipe, PromptCondensation, PromptTuner, UsageError
from pcvpt.callbacks import PhaseCheckpoint

STEPS = 5  # of an epoch
FIRST, SECOND = slice(0, 2 * STEPS), slice(2 * STEPS, 4 * STEPS)
Fit = Callable[..., Any]


class ScriptedMetric(PromptTuner):
    """Logs a metric that is given for each epoch."""

    script: list[float]

    def on_validation_epoch_end(self) -> None:
        self.log("scripted", self.script[self.current_epoch])


def _scripted(script: list[float]) -> PromptTuner:
    recipe = PhaseRecipe(torch.optim.SGD, base_lr=0.5, warmup_epochs=1)
    module = ScriptedMetric(4, recipe, recipe, "vit_demo_patch8_32", num_prompts=4)
    module.script = script
    return module


def test_the_epochs_of_both_phases_add_up(fit: Fit) -> None:
    trainer, module, watch = fit(PromptCondensation(prompt_epochs=1, finetune_epochs=2))
    assert trainer.current_epoch == 3
    assert trainer.global_step == 3 * STEPS
    assert watch.phases == ["prompt"] * STEPS + ["finetune"] * 2 * STEPS
    assert module.phase_name == "finetune"


def test_fine_tuning_has_an_optimizer_of_its_own_without_old_momentum(fit: Fit) -> None:
    trainer, _, watch = fit()
    first, second = watch.optimizers[0], watch.optimizers[-1]
    assert all(optimizer is first for optimizer in watch.optimizers[FIRST])
    assert all(optimizer is second for optimizer in watch.optimizers[SECOND])
    assert first is not second
    assert trainer.optimizers == [second]
    assert watch.momenta[2 * STEPS - 1] > 0
    assert watch.momenta[2 * STEPS] == 0


def test_the_learning_rate_warms_up_anew_and_ends_near_zero_in_each_phase(
    fit: Fit, tuner: Callable[..., PromptTuner]
) -> None:
    finetune = PhaseRecipe(torch.optim.SGD, base_lr=0.25, warmup_epochs=0.4)
    _, _, watch = fit(module=tuner(finetune=finetune))
    prompt, tune = watch.rates[FIRST], watch.rates[SECOND]
    full = 0.5 * 8 / 256
    assert prompt[:6] == pytest.approx([full * step / 6 for step in range(1, 7)])
    assert tune[:3] == pytest.approx([full / 2 * step / 3 for step in range(1, 4)])
    for rates, warmup in (prompt, 5), (tune, 2):
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
        assert rates[-1] < 0.12 * max(rates)


def test_masked_prompts_never_change_again_though_decay_and_momentum_are_on(
    fit: Fit, tuner: Callable[..., PromptTuner]
) -> None:
    recipe = PhaseRecipe(_sgd, base_lr=5.0, weight_decay=0.5)
    _, module, watch = fit(module=tuner(prompt=recipe, finetune=recipe))
    keep = module.model.prompts.keep
    assert 0 < keep.sum() < keep.numel()
    at_change, at_end = watch.prompts[2 * STEPS], module.model.prompts.values.detach()
    assert torch.equal(at_change[~keep], at_end[~keep])
    assert (at_change[keep] != at_end[keep]).any(dim=1).all()
    before = watch.prompts[2 * STEPS - 1]
    assert (before != at_change).any(dim=2).all()  # while all are trained, all move


def test_masked_prompts_stay_under_adamw(fit: Fit, tuner: Callable[..., PromptTuner]) -> None:
    recipe = PhaseRecipe(torch.optim.AdamW, base_lr=0.3, weight_decay=1.0)
    _, module, watch = fit(module=tuner(finetune=recipe))
    keep = module.model.prompts.keep
    at_change, at_end = watch.prompts[2 * STEPS], module.model.prompts.values.detach()
    assert torch.equal(at_change[~keep], at_end[~keep])
    assert not torch.equal(at_change[keep], at_end[keep])


def _sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def test_masked_prompts_are_no_keys_of_attention_any_more(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, module, _ = fit(PromptCondensation(keep=0.3, prompt_epochs=1, finetune_epochs=1))
    keys = []
    attend = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, *args: Any, **options: Any) -> Tensor:
        keys.append(key.shape[2])
        return attend(query, key, *args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        module(torch.zeros(1, 3, 32, 32))
    # The last block's single query goes around the fused attention.
    assert keys == [1 + 16 + count for count in module.model.prompts.counts()[:-1]]
    assert sum(module.model.prompts.counts()) == round(0.3 * 24)


def test_count_keeps_so_many_prompts(fit: Fit) -> None:
    condense = PromptCondensation(keep=None, count=5, prompt_epochs=1, finetune_epochs=1)
    _, module, _ = fit(condense)
    assert sum(module.model.prompts.counts()) == 5
    assert sum(condense.report["kept"]) == 5
    assert condense.report["prompts"] == 24


def test_the_kept_prompts_are_those_with_the_highest_stored_scores(fit: Fit) -> None:
    _, module, _ = fit(PromptCondensation(keep=0.5, prompt_epochs=1, finetune_epochs=1))
    bank = module.model.prompts
    assert bank.scores[bank.keep].min() >= bank.scores[~bank.keep].max()
    assert bank.scores.unique().numel() > 12


def test_max_drop_keeps_the_fewest_prompts_that_hold_the_accuracy(fit: Fit) -> None:
    strict, loose = (
        PromptCondensation(keep=None, max_drop=drop, prompt_epochs=2, finetune_epochs=1)
        for drop in (0.0, 100.0)
    )
    fit(strict)
    fit(loose)
    assert strict.report["accuracy_masked"] >= strict.report["accuracy_before"]
    assert sum(loose.report["kept"]) == 1


def test_rewinding_starts_fine_tuning_from_the_initial_prompts(fit: Fit) -> None:
    condense = PromptCondensation(prompt_epochs=2, finetune_epochs=1, rewind=True)
    _, module, watch = fit(condense)
    assert torch.equal(watch.prompts[2 * STEPS], watch.prompts[0])
    assert not torch.equal(watch.prompts[2 * STEPS - 1], watch.prompts[0])
    assert not torch.equal(watch.heads[2 * STEPS], watch.heads[0])
    assert not torch.equal(module.model.prompts.values, watch.prompts[0])


def test_without_rewinding_fine_tuning_starts_from_the_trained_prompts(fit: Fit) -> None:
    _, _, watch = fit()
    assert not torch.equal(watch.prompts[2 * STEPS], watch.prompts[0])


def test_keep_null_is_plain_prompt_tuning(fit: Fit) -> None:
    condense = PromptCondensation(keep=None, prompt_epochs=2, finetune_epochs=3)
    trainer, module, watch = fit(condense)
    assert trainer.current_epoch == 2
    assert set(watch.phases) == {"prompt"}
    assert module.model.prompts.keep.all()
    assert module.model.prompts.scores.isnan().all()
    assert set(condense.report) == {"accuracy_before", "seconds_prompt"}
    assert watch.rates[-1] < 0.12 * max(watch.rates)


def test_patience_ends_prompt_training_early_and_fine_tuning_follows(fit: Fit) -> None:
    condense = PromptCondensation(
        prompt_epochs=8, finetune_epochs=2, patience=2, monitor="scripted"
    )
    trainer, _, watch = fit(condense, _scripted([1, 3, 2, 3, 0, 0]))
    assert trainer.current_epoch == 4 + 2
    assert watch.phases == ["prompt"] * 4 * STEPS + ["finetune"] * 2 * STEPS
    tune = watch.rates[4 * STEPS :]
    assert tune[0] < 0.2 * max(tune)
    assert tune[-1] < 0.12 * max(tune)


def test_patience_waits_anew_after_each_improvement_and_stops_at_the_bound(fit: Fit) -> None:
    condense = PromptCondensation(
        prompt_epochs=5, finetune_epochs=1, patience=2, monitor="scripted"
    )
    trainer, _, watch = fit(condense, _scripted([1, 0, 2, 1, 3, 9]))
    assert trainer.current_epoch == 5 + 1
    assert watch.phases.count("prompt") == 5 * STEPS


def test_patience_on_a_metric_that_is_not_logged_is_refused_by_name(fit: Fit) -> None:
    with pytest.raises(UsageError, match=r"condense\.monitor='val/acuracy'"):
        fit(PromptCondensation(prompt_epochs=2, patience=1, monitor="val/acuracy"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": -0.1}, "keep=-0.1"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"keep": None, "count": 0}, "count=0"),
        ({"keep": 0.3, "count": 5}, "count=5"),
        ({"keep": 0.3, "max_drop": 1.0}, "max_drop=1.0"),
        ({"keep": None, "max_drop": -1.0}, "max_drop=-1.0"),
        ({"prompt_epochs": 0}, "prompt_epochs=0"),
        ({"finetune_epochs": 0}, "finetune_epochs=0"),
        ({"patience": 0}, "patience=0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named.replace(".", r"\.")):
        PromptCondensation(**options)


def test_more_prompts_than_there_are_are_refused_before_training(fit: Fit) -> None:
    condense = PromptCondensation(keep=None, count=25, prompt_epochs=1, finetune_epochs=1)
    started = Started()
    with pytest.raises(UsageError, match=r"count=25.*24"):
        fit(condense, callbacks=[started])
    assert not started.training


class Started(lightning.Callback):
    training = False

    def on_train_batch_start(self, *_: Any) -> None:
        self.training = True


def test_a_linear_probe_has_nothing_to_condense(
    fit: Fit, tuner: Callable[..., PromptTuner]
) -> None:
    with pytest.raises(UsageError, match=r"linear.*condense\.keep=null"):
        fit(module=tuner(mode="linear", num_prompts=0))


def test_another_module_is_refused_by_its_name(
    trainer: Callable[..., lightning.Trainer],
) -> None:
    with pytest.raises(UsageError, match="BoringModel"):
        trainer([PromptCondensation(prompt_epochs=1)]).fit(BoringModel())


def test_the_report_holds_the_accuracies_of_the_three_stages(
    fit: Fit,
    tuner: Callable[..., PromptTuner],
    evaluate: Callable[..., tuple[float, float]],
    tmp_path: Any,
) -> None:
    condense = PromptCondensation(keep=0.1, prompt_epochs=2, finetune_epochs=2)
    # Dropout, so that an accuracy in training mode would be another.
    fit(condense, tuner(prompt_dropout=0.8), callbacks=[PhaseCheckpoint()])
    found = {}
    for stage in "prompt-last", "masked", "finetune-last":
        saved = torch.load(tmp_path / "checkpoints" / f"{stage}.ckpt", weights_only=True)
        module = tuner()
        module.load_state_dict(saved["state_dict"], strict=False)
        found[stage] = evaluate(module)[0]
    assert condense.report["accuracy_before"] == pytest.approx(found["prompt-last"])
    assert condense.report["accuracy_masked"] == pytest.approx(found["masked"])
    assert condense.report["accuracy_finetuned"] == pytest.approx(found["finetune-last"])
    assert len(set(found.values())) > 1


def test_the_seconds_of_the_stages_add_up_to_no_more_than_the_run(fit: Fit) -> None:
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    fit(condense)
    seconds = [v for k, v in condense.report.items() if k.startswith("seconds")]
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert sum(seconds) < 60


@pytest.mark.parametrize(("what", "value"), [("score", "gats"), ("scope", "galaxy")])
def test_an_unknown_choice_is_refused_before_training(what: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"condense.{what}='{value}'; choose one of"):
        PromptCondensation(**{what: value})


def test_patience_ends_plain_prompt_training_too(
    fit: Callable[..., Any], tuner: Callable[..., PromptTuner]
) -> None:
    class Flat(PromptTuner):
        def on_validation_epoch_end(self) -> None:
            self.log("flat", 1.0)

    module = tuner()
    module.__class__ = Flat
    condense = PromptCondensation(keep=None, prompt_epochs=6, patience=2, monitor="flat")
    _, _, watch = fit(condense, module)
    assert watch.epochs[-1] == 2
