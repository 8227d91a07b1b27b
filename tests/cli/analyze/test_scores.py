from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pcvpt.analysis.score_comparison import ABSOLUTE
from pcvpt.cli.analyze.main import main
from pcvpt.cli.analyze.trained_model import open_model
from pcvpt.condensation import Method, evenly, merge_prompts, score_prompts, select_prompts
from pcvpt.errors import UsageError

QUICK = ("--images", 25, "--draws", 2, "--keep", 0.3)


def test_scores_of_a_run_are_compared(
    run: Path, analyze: Any, accuracy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("gate", "magnitude", "random")
    found = analyze("scores", run, *QUICK, "--exact_images", 0, "--methods", *methods)
    assert found.files() == {
        *(f"scores{part}.csv" for part in ("", "_correlation", "_prompts")),
        *(f"scores{part}.{kind}" for part in ("", "_correlation") for kind in ("png", "svg")),
    }
    rows = found.rows("scores.csv")
    draws = {(row["method"], int(row["draw"])) for row in rows}
    assert draws == {("gate", 0), ("magnitude", 0), ("random", 0), ("random", 1), ("merge", 0)}
    assert {row["scope"] for row in rows} == {"global", "layer"}
    assert {row["prompts"] for row in rows} == {"36"}
    trained = open_model(run, "prompt-last")
    scores = score_prompts(trained.model, trained.batches("train", 25), "gate")
    by_prompt = [float(row["gate"]) for row in found.rows("scores_prompts.csv")]
    assert by_prompt == pytest.approx(torch.stack(scores).flatten().tolist())
    trained.model.prompts.apply_mask(select_prompts(scores, 0.3))
    (gate,) = (row for row in rows if (row["method"], row["scope"]) == ("gate", "global"))
    assert float(gate["accuracy"]) == pytest.approx(accuracy(trained, "val"))
    trained = open_model(run, "prompt-last")
    chosen = evenly(trained.batches("train", 25), 25)
    trained.model.prompts.apply_merge(merge_prompts(trained.model, chosen, 0.3))
    (merge,) = (row for row in rows if (row["method"], row["scope"]) == ("merge", "global"))
    assert float(merge["accuracy"]) == pytest.approx(accuracy(trained, "val"))
    pairs = {(row["first"], row["second"]) for row in found.rows("scores_correlation.csv")}
    assert len(pairs) == 9
    assert "30 %, layer" in capsys.readouterr().out


@pytest.mark.slow
def test_all_scores_of_two_seeds_and_of_swin(
    fitted: Any, run: Path, swin_run: Path, analyze: Any
) -> None:
    other = fitted("other", "--seed_everything=1")
    rows = analyze("scores", run, other, *QUICK, "--exact_images", 8).rows("scores.csv")
    assert len({row["run"] for row in rows}) == 2
    assert {row["method"] for row in rows} == {*get_args(Method), ABSOLUTE, "merge"}
    rows = analyze("scores", swin_run, *QUICK, "--exact_images", 8).rows("scores.csv")
    assert {row["scope"] for row in rows} == {"global", "stage", "layer"}


@pytest.mark.slow
def test_runs_that_differ_in_more_than_their_seeds_are_refused(fitted: Any, run: Path) -> None:
    shallow = fitted("shallow", "--config", "shallow.yaml")
    with pytest.raises(UsageError, match="differ in more than their seeds"):
        main(["scores", str(run), str(shallow)])
