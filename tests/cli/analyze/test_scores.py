import csv
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pcvpt.analysis.score_comparison import ABSOLUTE
from pcvpt.cli.analyze.main import main
from pcvpt.cli.analyze.trained_model import open_subject
from pcvpt.condensation import Method, score_prompts, select_prompts
from pcvpt.errors import UsageError

QUICK = ("--images", "25", "--draws", "2", "--keep", "0.3")


def _rows(folder: Path, name: str = "scores.csv") -> list[dict[str, str]]:
    with (folder / name).open() as text:
        return list(csv.DictReader(text))


def test_scores_of_a_run_are_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ("gate", "magnitude", "random")
    options = (*QUICK, "--exact_images", "0", "--methods", *methods)
    assert main(["scores", str(run), *options]) == 0
    folder = run / "analysis"
    assert {file.name for file in folder.iterdir()} == {
        *(f"scores{part}.csv" for part in ("", "_correlation", "_prompts")),
        *(f"scores{part}.{kind}" for part in ("", "_correlation") for kind in ("png", "svg")),
    }
    rows = _rows(folder)
    assert {(row["method"], int(row["draw"])) for row in rows} == {
        ("gate", 0),
        ("magnitude", 0),
        ("random", 0),
        ("random", 1),
    }
    assert {row["scope"] for row in rows} == {"global", "layer"}
    assert {row["prompts"] for row in rows} == {"36"}
    subject = open_subject(run, "prompt-last")
    scores = score_prompts(subject.model, subject.batches("train", 25), "gate")
    by_prompt = _rows(folder, "scores_prompts.csv")
    assert [float(row["gate"]) for row in by_prompt] == pytest.approx(
        torch.stack(scores).flatten().tolist()
    )
    subject.model.prompts.apply_mask(select_prompts(scores, 0.3))
    with torch.no_grad():
        hits = [subject.model(x).argmax(1) == y for x, y in subject.batches("val")]
    by_hand = 100 * float(torch.cat(hits).double().mean())
    (found,) = (r for r in rows if (r["method"], r["scope"]) == ("gate", "global"))
    assert float(found["accuracy"]) == pytest.approx(by_hand)
    pairs = {(row["first"], row["second"]): row for row in _rows(folder, "scores_correlation.csv")}
    assert len(pairs) == 9
    said = capsys.readouterr().out
    assert "scoring by magnitude" in said
    assert "30 %, layer" in said


@pytest.mark.slow
def test_all_scores_of_two_seeds_and_of_swin(
    fitted: Any, finished: Path, swin_run: Path, tmp_path: Path
) -> None:
    other = fitted("other", "--seed_everything=1")
    options = (*QUICK, "--exact_images", "8")
    main(["scores", str(finished), str(other), *options, "--output", str(tmp_path / "two")])
    rows = _rows(tmp_path / "two")
    assert len({row["run"] for row in rows}) == 2
    assert {row["method"] for row in rows} == {*get_args(Method), ABSOLUTE}
    main(["scores", str(swin_run), *options])
    assert {row["scope"] for row in _rows(swin_run / "analysis")} == {"global", "stage", "layer"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "0"], "keep=0.0; give the fraction"),
        (["--images", "0"], "--images 0; give at least 1"),
        (["--exact_images", "-1"], "--exact_images -1; give at least 0"),
        (["--draws", "0"], "--draws 0; give at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(run: Path, options: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        main(["scores", str(run), *options])
    assert not (run / "analysis").exists()


def test_linear_probes_other_models_and_empty_splits_are_refused(
    fitted: Any, run: Path, image_folder: Path
) -> None:
    with pytest.raises(UsageError, match=r"linear.*a linear probe has no prompts"):
        main(["scores", str(fitted("linear", "--config", "linear.yaml"))])
    shallow = fitted("shallow", "--config", "shallow.yaml")
    with pytest.raises(UsageError, match="differ in more than their seeds"):
        main(["scores", str(run), str(shallow)])
    data = ["--data", "pcvpt.data.ImageFolderDataModule", f"--data.root={image_folder}"]
    with pytest.raises(UsageError, match="no test images; choose another by --split"):
        main(["scores", str(run), "--split", "test", *data])
