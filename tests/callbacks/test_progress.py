import pytest
from factories import Fit

from pcvpt.callbacks import PhaseProgressBar


@pytest.mark.parametrize(
    ("keep", "shown"),
    [
        ([0.5, 0.1], [f"finetune {budget} {n}/2" for budget in (0.5, 0.1) for n in (1, 2)]),
        pytest.param(0.3, ["finetune 1/2", "finetune 2/2"], marks=pytest.mark.slow),
    ],
)
def test_the_bar_names_phase_budget_and_epoch(
    fit: Fit, capsys: pytest.CaptureFixture[str], keep: object, shown: list[str]
) -> None:
    options = {"keep": keep, "finetune_epochs": 2}
    fit(options, callbacks=[PhaseProgressBar()], enable_progress_bar=True)
    printed = "".join(capsys.readouterr())
    assert all(text in printed for text in ("prompt 1/1", *shown, "val/accuracy="))
    assert not any(text in printed for text in ("prompt 2/", "3/2", "v_num"))
