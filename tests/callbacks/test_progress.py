import re
from typing import Any

import pytest
from factories import Fit

from pcvpt.callbacks import PhaseProgressBar, RunSummary

TWO_BUDGETS = {"keep": [0.5, 0.1], "finetune_epochs": 2}
EPOCHS = ["prompt 1/1", *(f"finetune {budget} {n}/2" for budget in (0.5, 0.1) for n in (1, 2))]


def test_what_is_no_terminal_gets_a_line_for_each_epoch_and_for_the_start(
    fit: Fit, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fit(TWO_BUDGETS, callbacks=[PhaseProgressBar(), RunSummary()], enable_progress_bar=True)
    told = [line for line in caplog.messages if line.startswith(("prompt", "finetune"))]
    assert [line.partition(":")[0] for line in told] == EPOCHS
    form = r"loss \d\.\d+, val accuracy [\d.]+ % \(best [\d.]+ %\), [\d,]+ images/s, 0:00:\d\d left"
    assert all(re.fullmatch(form, line.partition(": ")[2]) for line in told), told
    assert told[-1].endswith(", 0:00:00 left")
    begins = ("Backbone: vit_demo_patch8_32, weights: pretrained", "Prompts: 4 in each of 6 blocks")
    begins = (*begins, "Trained: 4,484 of ", "Device: ")
    for begin in begins:
        assert sum(line.startswith(begin) for line in caplog.messages) == 1
    assert "\r" not in "".join(capsys.readouterr())


def test_a_line_tells_only_an_accuracy_that_is_new_and_the_best_of_its_phase(
    fit: Fit, caplog: pytest.LogCaptureFixture
) -> None:
    class Falling(PhaseProgressBar):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_validation_end(trainer, pl_module)
            self._accuracies[-1] = 50.0 - trainer.current_epoch

    options = {"enable_progress_bar": True, "check_val_every_n_epoch": 2}
    fit({"keep": 0.5, "prompt_epochs": 3, "finetune_epochs": 2}, callbacks=[Falling()], **options)
    told = [line for line in caplog.messages if line.startswith(("prompt", "finetune"))]
    accuracies = [re.findall(r"accuracy ([\d.]+) % \(best ([\d.]+) %", line) for line in told]
    assert [len(found) for found in accuracies] == [0, 1, 0, 1, 0]
    assert all(now == best for ((now, best),) in filter(None, accuracies))  # the first of each


def test_a_terminal_has_one_display_of_the_whole_run(
    fit: Fit,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "90"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pcvpt.callbacks.progress._SECONDS", 0)
    fit(TWO_BUDGETS, callbacks=[PhaseProgressBar()], enable_progress_bar=True)
    shown = capsys.readouterr().out
    whole = [*EPOCHS, "epoch 1 of all 5", "epoch 5 of all 5", "images/s", "val accuracy", " left"]
    whole += ["next: scoring, condensing, fine-tuning of each budget: 0.5, 0.1"]
    whole += ["scoring the prompts and condensing them", "next: budget 0.1", "next: the results"]
    assert [text for text in whole if text not in shown] == []
    assert not any(line.startswith("finetune") for line in caplog.messages)
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", shown)  # NO_COLOR
    assert shown.endswith("\x1b[2K")  # the display is gone


def test_nothing_is_shown_where_information_is_not_wanted(
    fit: Fit, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with caplog.at_level("ERROR", logger="lightning.pytorch"):
        fit(TWO_BUDGETS, callbacks=[PhaseProgressBar()], enable_progress_bar=True)
    assert caplog.messages == []
    assert "".join(capsys.readouterr()) == ""
