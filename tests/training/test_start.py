"""How prompt training starts."""

from pathlib import Path

import pytest
import torch
from factories import TinyData, make_trainer, make_tuner

from pcvpt import PromptCondensation, PromptTuner, UsageError
from pcvpt.training.start import FirstLoss


def _fit(folder: Path, ckpt_path: str | None = None, **options: object) -> PromptTuner:
    torch.manual_seed(5)
    module = make_tuner(**options)
    condense = PromptCondensation(keep=None, prompt_epochs=2 if ckpt_path else 1)
    trainer = make_trainer(folder, [condense])
    trainer.fit(module, datamodule=TinyData(), ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module


def test_a_run_can_start_from_tokens_and_a_resumed_one_does_not_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    uniform = _fit(tmp_path / "uniform")
    tokens = _fit(tmp_path / "tokens", prompt_init="tokens")
    assert not torch.allclose(uniform.model.prompts.values, tokens.model.prompts.values, atol=0.1)
    monkeypatch.setattr(
        "pcvpt.training.module.start_from_tokens", lambda *args: starts.append(args)
    )
    _fit(tmp_path / "more", str(tmp_path / "tokens/last.ckpt"), prompt_init="tokens")
    assert not starts


def test_the_start_does_not_change_the_order_of_the_images(tmp_path: Path) -> None:
    losses = []
    for init in ("uniform", "tokens"):
        module = _fit(tmp_path / init, prompt_init=init)
        losses.append(float(module.trainer.callback_metrics["train/loss"]))
    assert losses[0] != losses[1]
    heads = [_fit(tmp_path / f"again{i}").model.head.weight for i in range(2)]
    assert torch.equal(*heads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_init": "words"}, "prompt_init='words'; choose one of uniform, tokens"),
        (
            {"prompt_init": "tokens", "mode": "linear", "num_prompts": 0},
            "prompt_init='tokens' in mode 'linear'",
        ),
    ],
)
def test_a_start_that_is_not_possible_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_tuner(**options)


@pytest.mark.parametrize(("loss", "warned"), [(9.0, True), (4.0, False)])
def test_a_first_loss_far_above_a_blind_guess_is_told_once(
    loss: float, warned: bool, recwarn: pytest.WarningsRecorder
) -> None:
    first = FirstLoss(classes=10)  # log(10) = 2.3
    first.tell()
    for value in (loss, 100.0):
        first.note(torch.tensor(value))
    first.tell()
    first.tell()
    assert ["head_init=zero" in str(w.message) for w in recwarn] == [True] * warned
