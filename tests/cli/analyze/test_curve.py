import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt.cli.analyze.curve import _grouped
from pcvpt.cli.analyze.curve_runs import FinishedRun, fits_of, open_finished
from pcvpt.cli.analyze.fits import Fit, run_fits
from pcvpt.cli.analyze.main import main
from pcvpt.cli.analyze.trained_model import open_model
from pcvpt.errors import UsageError
from pcvpt.runs.folder import find_run

pytestmark = pytest.mark.timeout(600)  # each fit is a process
KEEP = ("--keep", "0.1", "0.5", "1.0", "--scratch", "0.1")


def _rows(folder: Path, name: str = "curve.csv") -> list[dict[str, str]]:
    with (folder / name).open() as text:
        return list(csv.DictReader(text))


@pytest.fixture(scope="module")
def analysed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished demo whose curve is drawn; two fits were run for it."""
    folder = tmp_path_factory.mktemp("curve")
    copy = Path(shutil.copytree(run, folder / "demo" / run.name))
    assert main(["curve", str(copy), *KEEP]) == 0
    return copy


@pytest.mark.slow
def test_a_curve_has_what_its_fits_measured(analysed: Path) -> None:
    folder = analysed / "analysis"
    names = {"curve.csv", "curve_summary.csv", "curve.png", "curve.svg", "curve_runs"}
    assert {file.name for file in folder.iterdir()} == names
    rows = {(row["series"], float(row["keep"])): row for row in _rows(folder)}
    assert {key: int(row["prompts"]) for key, row in rows.items()} == {
        **{(s, f): round(120 * f) for s in ("masked only", "fine-tuned") for f in (0.1, 0.5, 1.0)},
        ("from scratch", 0.1): 12,
        ("from scratch", 1.0): 120,
    }
    full = json.loads((analysed / "results.json").read_text())["accuracy_before"]
    assert {float(row["accuracy_all_prompts"]) for row in rows.values()} == {full}
    for unchanged in ("masked only", "from scratch"):
        assert float(rows[unchanged, 1.0]["accuracy"]) == full
    fits = folder / "curve_runs" / "demo-version_0"
    assert {fit.name for fit in fits.iterdir()} == {"condensed-0.1-0.5-1", "scratch-2"}
    results = json.loads((find_run(str(fits / "condensed-0.1-0.5-1")) / "results.json").read_text())
    for entry in results["budgets"]:
        for series, figure in (
            ("masked only", "accuracy_masked"),
            ("fine-tuned", "accuracy_finetuned"),
        ):
            assert float(rows[series, entry["keep"]]["accuracy"]) == entry[figure]
    scratch = json.loads((find_run(str(fits / "scratch-2")) / "results.json").read_text())
    assert float(rows["from scratch", 0.1]["accuracy"]) == scratch["accuracy_before"]
    assert scratch["prompts"] == 12
    summary = _rows(folder, "curve_summary.csv")
    assert len(summary) == len(rows)
    assert {row["runs"] for row in summary} == {"1"}


@pytest.mark.slow
def test_nothing_is_fitted_twice(analysed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = sorted((analysed / "analysis" / "curve_runs").rglob("version_*"))
    with pytest.raises(UsageError, match="--overwrite"):
        main(["curve", str(analysed), *KEEP])
    main(["curve", str(analysed), *KEEP, "--overwrite"])
    said = capsys.readouterr().out
    assert "Fits: 2 of 2 are finished already" in said
    assert "started" not in said
    assert sorted((analysed / "analysis" / "curve_runs").rglob("version_*")) == runs


@pytest.mark.slow
def test_the_test_split_is_that_of_the_fits_checkpoints(analysed: Path, accuracy: Any) -> None:
    main(["curve", str(analysed), *KEEP, "--overwrite", "--split", "test"])
    folder = analysed / "analysis"
    rows = {(row["series"], float(row["keep"])): row for row in _rows(folder)}
    fits = folder / "curve_runs" / "demo-version_0"
    for series, keep, fit, checkpoint in (
        ("masked only", 0.1, "condensed-0.1-0.5-1", "masked_0.1"),
        ("fine-tuned", 0.5, "condensed-0.1-0.5-1", "finetune_0.5-last"),
        ("from scratch", 0.1, "scratch-2", "prompt-last"),
    ):
        expected = accuracy(open_model(find_run(str(fits / fit)), checkpoint), "test")
        assert float(rows[series, keep]["accuracy"]) == pytest.approx(expected)
    full = accuracy(open_model(analysed, "prompt-last"), "test")
    assert float(rows["from scratch", 1.0]["accuracy_all_prompts"]) == pytest.approx(full)
    assert {row["split"] for row in rows.values()} == {"test"}


@pytest.mark.slow
def test_a_fit_that_was_cut_off_goes_on(
    analysed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(analysed, tmp_path / "demo" / analysed.name))
    main(["curve", str(run), *KEEP, "--overwrite"])
    before = _rows(run / "analysis")
    fit = run / "analysis" / "curve_runs" / "demo-version_0" / "condensed-0.1-0.5-1"
    (cut,) = fit.glob("version_*")
    (cut / "results.json").unlink()
    for later in ("0.5", "1.0"):
        (cut / "checkpoints" / f"finetune_{later}-last.ckpt").unlink()
    main(["curve", str(run), *KEEP, "--overwrite"])
    assert "Fit condensed-0.1-0.5-1, 3 epochs: resumed" in capsys.readouterr().out
    starts = json.loads((cut / "environment.json").read_text())["starts"]
    assert [start["epochs_before"] for start in starts] == [1, 2]
    assert list(fit.glob("version_*")) == [cut]
    assert _rows(run / "analysis") == before


@pytest.mark.slow
def test_masks_alone_and_a_random_choice(run: Path, analyze: Any) -> None:
    options = ("--keep", "0.2", "1.0", "--no-finetune", "--no-scratch", "--random", "--jobs", "1")
    found = analyze("curve", run, *options)
    rows = {(row["series"], float(row["keep"])) for row in found.rows("curve.csv")}
    assert rows == {("masked only", 0.2), ("masked only", 1.0), ("random, masked only", 0.2)}
    fits = found.folder / "curve_runs" / "demo-version_0"
    stems = {"condensed-masked-0.2-1": "masked_0.2", "random-masked-0.2": "masked"}
    masks = [
        open_model(find_run(str(fits / name)), stem).model.prompts.keep
        for name, stem in stems.items()
    ]
    assert [int(mask.sum()) for mask in masks] == [24, 24]
    assert not torch.equal(*masks)


@pytest.mark.slow
def test_a_fit_that_fails_says_why(run: Path, tmp_path: Path) -> None:
    fit = Fit(tmp_path / "fits" / "wrong", run / "config.yaml", ("--condense.keep", "7"), None, 1)
    with pytest.raises(UsageError, match=r"fit wrong failed .*fit.log\): pcvpt: error: keep=7"):
        run_fits([fit], 1, 1)


def test_the_place_of_other_fits_is_not_taken(run: Path, tmp_path: Path) -> None:
    fit = Fit(tmp_path / "fit", run / "config.yaml", ("--model.prompt.base_lr", "0.1"), None, 1)
    fit.folder.mkdir()
    (fit.folder / "begun.json").write_text('{"options": [], "files": []}')
    with pytest.raises(UsageError, match="begun from another run, or with other options"):
        run_fits([fit], 1, 1)


def test_each_fit_has_its_own_options(run: Path, tmp_path: Path) -> None:
    finished = open_finished(str(run))
    fits = fits_of(
        finished, tmp_path, [0.1, 1.0], random=True, scratch={0.3: 6, 1.0: 20}, options=("--x", "y")
    )
    assert [(one.chosen, one.keep, one.fit.folder.name, one.fit.epochs) for one in fits] == [
        ("score", (0.1, 1.0), "condensed-0.1-1", 2),
        ("random", (0.1,), "random-0.1", 1),
        ("scratch", (0.3,), "scratch-6", 1),
    ]
    for one in fits:
        assert one.fit.options[:2] == ("--x", "y")
        assert (one.fit.checkpoint is None) == (one.chosen == "scratch")


def test_the_curve_is_read_from_finished_fits_without_running_them(
    run: Path, analyze: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run itself, condensed to 30 % and fine-tuned, stands for the one fit of this curve."""
    options = ("--keep", "0.3", "--no-scratch")
    (one,) = fits_of(open_finished(str(run)), tmp_path / "results" / "curve_runs", [0.3])
    monkeypatch.setattr(Fit, "finished", lambda self: run)
    found = analyze("curve", run, *options)
    rows = {row["series"]: row for row in found.rows("curve.csv")}
    results = json.loads((run / "results.json").read_text())
    assert set(rows) == {"masked only", "fine-tuned"}
    assert float(rows["masked only"]["accuracy"]) == results["accuracy_masked"]
    assert float(rows["fine-tuned"]["accuracy"]) == results["accuracy_finetuned"]
    assert {row["prompts"] for row in rows.values()} == {"36"}
    assert found.files() >= {"curve.csv", "curve_summary.csv", "curve.png", "curve.svg"}
    assert one.fit.folder.name == "condensed-0.3"


def test_runs_that_differ_in_their_seeds_alone_are_one_group() -> None:
    def run(name: str, mode: str = "deep", seed: int = 0, epochs: int = 4) -> FinishedRun:
        config = {
            "seed_everything": seed,
            "name": name,
            "model": {"mode": mode, "num_prompts": 4},
            "data": {"init_args": {"seed": seed}},
            "condense": {"seed": seed, "prompt_epochs": epochs},
        }
        return FinishedRun(Path(name), name, config, {"prompts": 24})

    one, two = run("a"), run("b", seed=1)
    shallow, longer = run("c", "shallow"), run("d", epochs=5)
    assert _grouped([one, shallow, two]) == {
        "VPT-Deep, 24 prompts, 2 runs": [one, two],
        "VPT-Shallow, 24 prompts": [shallow],
    }
    assert _grouped([one, longer]) == {"VPT-Deep, a": [one], "VPT-Deep, d": [longer]}


def test_runs_that_have_no_curve_are_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "demo" / run.name))
    with pytest.raises(UsageError, match="an adapter can't be trained on"):
        main(["curve", str(run / "adapter.safetensors")])
    with pytest.raises(UsageError, match="runs need different names"):
        main(["curve", str(run), str(run)])
    file = copy / "results.json"
    results = json.loads(file.read_text())
    for changed, message in (
        ({"prompts": 0}, "linear probe has no prompts to keep"),
        ({"data": {"held_out": False}}, "val is part of what was trained on; give --split test"),
        ({"accuracy_before": None}, "no val images; give --split test"),
    ):
        changed = {key: float("nan") if value is None else value for key, value in changed.items()}
        file.write_text(json.dumps({**results, **changed}))
        with pytest.raises(UsageError, match=message):
            main(["curve", str(copy)])
    file.unlink()
    with pytest.raises(UsageError, match="not finished yet"):
        main(["curve", str(copy)])
