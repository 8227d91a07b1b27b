from collections.abc import Callable
from typing import Any

import pytest

from pcvpt import PromptCondensation
from pcvpt.callbacks import PhaseProgressBar


def test_the_bar_names_the_phase_and_its_epoch(
    fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    condense = PromptCondensation(prompt_epochs=2, finetune_epochs=1)
    fit(condense, callbacks=[PhaseProgressBar()], enable_progress_bar=True)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    for text in "prompt 1/2", "prompt 2/2", "finetune 1/1":
        assert text in said
    assert "prompt 3/" not in said
    assert "val/accuracy=" in said
    assert "v_num" not in said


def test_the_bar_names_the_budget_among_several(
    fit: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    condense = PromptCondensation([0.5, 0.1], prompt_epochs=1, finetune_epochs=2)
    fit(condense, callbacks=[PhaseProgressBar()], enable_progress_bar=True)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    for text in "prompt 1/1", *(f"finetune {b} {n}/2" for b in (0.5, 0.1) for n in (1, 2)):
        assert text in said
    assert "3/2" not in said
