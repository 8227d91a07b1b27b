"""How prompt training starts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from factories import CLASSES, TinyData, differences, fit, make_tuner
from PIL import Image
from torch import Tensor

from pcvpt import PromptTuner, UsageError
from pcvpt.callbacks import PhaseCheckpoint
from pcvpt.data import eval_transform
from pcvpt.training import start
from pcvpt.training.loss_guard import LossGuard


def _tuner(prompt_init: str = "tokens", **options: Any) -> PromptTuner:
    torch.manual_seed(1)
    return make_tuner(prompt_init=prompt_init, prompt_dropout=0.3, **options)


def test_prompts_start_as_tokens_of_images_that_the_seed_chooses_among_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    init = start.init_from_tokens

    def spy(model: Any, images: Tensor, seed: int) -> None:
        seen.append(images)
        init(model, images, seed)

    monkeypatch.setattr(start, "init_from_tokens", spy)
    monkeypatch.setattr(start, "_IMAGES", 12)
    module = _tuner()
    runs = [fit(tmp_path / str(n), module=_tuner(), seed=n // 2) for n in range(3)]
    items, transform = TinyData().splits.train, eval_transform(module.input_spec, "crop")
    every = torch.stack([transform(Image.fromarray(item.source)) for item in items])
    same = [(images[:, None] - every).abs().amax((2, 3, 4)) < 1e-5 for images in seen]
    assert all(
        found.sum() == found.any(0).sum() == 12 for found in same
    )  # neither cut nor mirrored
    chosen = [found.int().argmax(1).tolist() for found in same]
    assert chosen[0] == chosen[1] != chosen[2]
    assert {items[n].label for n in chosen[0]} == {*range(len(CLASSES))}
    first = [run.watch.prompts[0] for run in runs]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert not torch.equal(first[0], module.model.prompts.stack())


def test_a_start_from_tokens_disturbs_neither_random_numbers_nor_the_order_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undone(trainer: Any, model: Any, seed: int) -> None:
        before = model.prompts.snapshot()
        start.start_from_tokens(trainer, model, seed)
        assert not torch.equal(model.prompts.values, before[0])
        model.prompts.restore(before)

    monkeypatch.setattr("pcvpt.training.module.start_from_tokens", undone)
    uniform, tokens = (fit(tmp_path / i, module=_tuner(i)) for i in ("uniform", "tokens"))
    assert differences(uniform.outcome(), tokens.outcome()) == []


def test_a_resumed_run_keeps_the_head_and_the_prompts_that_it_started_from(tmp_path: Path) -> None:
    """Whatever the options say: an older run may have had another default."""
    rewind = {"rewind": True}
    whole = fit(tmp_path, rewind, _tuner(head_init="vpt"), callbacks=[PhaseCheckpoint()])
    tuned = whole.watch.phases.index("finetune")
    kept = whole.module.model.prompts.keep
    assert torch.equal(whole.watch.prompts[tuned][kept], whole.watch.prompts[0][kept])
    for prompt_init in ("uniform", "tokens"):
        module, last = _tuner(prompt_init, head_init="zero"), whole.checkpoint("prompt-last")
        resumed = fit(tmp_path / prompt_init, rewind, module, ckpt_path=last)
        assert differences(whole.outcome(), resumed.outcome()) == []


def test_a_second_fit_goes_on_with_the_prompts_of_the_first(tmp_path: Path) -> None:
    module = _tuner()
    fit(tmp_path / "first", {"keep": None}, module)
    trained = module.model.prompts.stack().detach().clone()
    second = fit(tmp_path / "second", {"keep": None}, module)
    assert torch.equal(second.watch.prompts[0], trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_init": "words"}, "prompt_init='words'; choose one of uniform, tokens"),
        (
            {"prompt_init": "tokens", "mode": "linear", "num_prompts": 0},
            "prompt_init='tokens' in mode 'linear', .* set it to 'uniform'",
        ),
    ],
)
def test_a_start_that_is_not_possible_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_tuner(**options)


@pytest.mark.parametrize(("head_init", "warnings"), [("vpt", 1), ("zero", 0)])
def test_a_first_loss_far_above_a_uniform_guess_is_told_once_in_a_fit(
    head_init: str, warnings: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    module = _tuner("uniform", head_init=head_init)  # VPT's head: 14 on these images
    fit(tmp_path, {"keep": None, "prompt_epochs": 2}, module)
    told = [str(warning.message) for warning in recwarn if "first batch" in str(warning.message)]
    assert len(told) == warnings
    for text in told:
        assert all(part in text for part in ("log(4) = 1.4", "head_init=zero", "normalised"))


@pytest.mark.parametrize(("loss", "warnings"), [(5.7, 1), (5.5, 0), (torch.nan, 0)])
def test_a_first_loss_is_too_high_above_twice_that_of_a_uniform_guess_and_one(
    loss: float, warnings: int, recwarn: pytest.WarningsRecorder
) -> None:
    losses = LossGuard()
    losses.note(torch.tensor(loss), epoch=0, batch=0)
    losses.warn(classes=10)  # 2 log(10) + 1 = 5.6
    assert len(recwarn) == warnings


def test_noting_the_first_loss_reads_nothing() -> None:
    LossGuard().note(torch.empty((), device="meta"), epoch=0, batch=0)
