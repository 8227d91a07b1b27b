import pytest
from factories import Run, fit

from pcvpt import PromptCondensation
from pcvpt.callbacks import PhaseProgressBar


@pytest.mark.parametrize(
    ("keep", "shown", "hidden"),
    [
        (0.3, ["prompt 1/1", "finetune 1/2", "finetune 2/2"], ["prompt 2/", "finetune 3/"]),
        ([0.5, 0.1], [f"finetune {b} {n}/2" for b in (0.5, 0.1) for n in (1, 2)], ["3/2"]),
    ],
)
def test_the_bar_names_phase_budget_and_epoch(
    tmp_path: object,
    capsys: pytest.CaptureFixture[str],
    keep: float | list[float],
    shown: list[str],
    hidden: list[str],
) -> None:
    condense = PromptCondensation(keep, prompt_epochs=1, finetune_epochs=2)
    run: Run = fit(tmp_path, condense, callbacks=[PhaseProgressBar()], enable_progress_bar=True)
    assert run.trainer.current_epoch == 1 + 2 * len(run.condense.budgets)
    printed = "".join(capsys.readouterr())
    assert all(text in printed for text in (*shown, "val/accuracy="))
    assert not any(text in printed for text in (*hidden, "v_num"))
