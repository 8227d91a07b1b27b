import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt.cli.analyze.curve import _grouped
from pcvpt.cli.analyze.curve_runs import Source, Wanted, fits_of, open_source
from pcvpt.cli.analyze.fits import Fit, run_fits
from pcvpt.cli.analyze.main import main
from pcvpt.cli.analyze.trained_model import open_subject
from pcvpt.errors import UsageError
from pcvpt.runs.folder import find_run

pytestmark = pytest.mark.timeout(600)  # each fit is a process
KEEP = ("--keep", "0.1", "0.5", "1.0", "--scratch", "0.1")


def _rows(folder: Path, name: str = "curve.csv") -> list[dict[str, str]]:
    with (folder / name).open() as text:
        return list(csv.DictReader(text))


def _accuracy(run: Path, checkpoint: str, split: str) -> float:
    subject = open_subject(run, checkpoint)
    with torch.no_grad():
        hits = [subject.model(x).argmax(1) == labels for x, labels in subject.batches(split)]
    return 100 * float(torch.cat(hits).double().mean())


@pytest.fixture(scope="module")
def analysed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished demo whose curve is drawn; two fits were run for it."""
    folder = tmp_path_factory.mktemp("curve")
    run = Path(shutil.copytree(finished, folder / "demo" / finished.name))
    assert main(["curve", str(run), *KEEP]) == 0
    return run


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
    assert "Fits: 2 of 2 are there already" in said
    assert "begins" not in said
    assert sorted((analysed / "analysis" / "curve_runs").rglob("version_*")) == runs


@pytest.mark.slow
def test_the_test_split_is_that_of_the_fits_checkpoints(analysed: Path) -> None:
    main(["curve", str(analysed), *KEEP, "--overwrite", "--split", "test"])
    folder = analysed / "analysis"
    rows = {(row["series"], float(row["keep"])): row for row in _rows(folder)}
    fits = folder / "curve_runs" / "demo-version_0"
    for series, keep, fit, checkpoint in (
        ("masked only", 0.1, "condensed-0.1-0.5-1", "masked_0.1"),
        ("fine-tuned", 0.5, "condensed-0.1-0.5-1", "finetune_0.5-last"),
        ("from scratch", 0.1, "scratch-2", "prompt-last"),
    ):
        by_hand = _accuracy(find_run(str(fits / fit)), checkpoint, "test")
        assert float(rows[series, keep]["accuracy"]) == pytest.approx(by_hand)
    full = _accuracy(analysed, "prompt-last", "test")
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
    assert "Fit condensed-0.1-0.5-1, 3 epochs: goes on" in capsys.readouterr().out
    starts = json.loads((cut / "environment.json").read_text())["starts"]
    assert [start["epochs_before"] for start in starts] == [1, 2]
    assert list(fit.glob("version_*")) == [cut]
    assert _rows(run / "analysis") == before


@pytest.mark.slow
def test_the_place_of_other_fits_is_not_taken(analysed: Path) -> None:
    with pytest.raises(UsageError, match="begun from another run, or with other options"):
        main(["curve", str(analysed), *KEEP, "--overwrite", "--model.prompt.base_lr", "0.1"])


@pytest.mark.slow
def test_masks_alone_and_a_random_choice(run: Path) -> None:
    options = ("--keep", "0.2", "1.0", "--no-finetune", "--no-scratch", "--random", "--jobs", "1")
    main(["curve", str(run), *options])
    rows = {(r["series"], float(r["keep"])): float(r["accuracy"]) for r in _rows(run / "analysis")}
    assert set(rows) == {
        ("masked only", 0.2),
        ("masked only", 1.0),
        ("random, masked only", 0.2),
    }
    fits = run / "analysis" / "curve_runs" / "demo-version_0"
    masks = [
        open_subject(find_run(str(fits / name)), stem).model.prompts.keep
        for name, stem in (
            ("condensed-masked-0.2-1", "masked_0.2"),
            ("random-masked-0.2", "masked"),
        )
    ]
    assert [int(mask.sum()) for mask in masks] == [24, 24]
    assert not torch.equal(*masks)


@pytest.mark.slow
def test_a_fit_that_fails_says_why(run: Path, tmp_path: Path) -> None:
    fit = Fit(tmp_path / "fits" / "wrong", run / "config.yaml", ("--condense.keep", "7"), None, 1)
    with pytest.raises(UsageError, match=r"fit wrong failed .*fit.log\): pcvpt: error: keep=7"):
        run_fits([fit], 1, 1)


def test_what_each_fit_is_asked_for(finished: Path, tmp_path: Path) -> None:
    source = open_source(str(finished))
    wanted = Wanted(
        [0.1, 1.0], finetune=True, random=True, scratch=[0.3, 1.0], options=("--x", "y")
    )
    planned = fits_of(source, wanted, tmp_path)
    assert [(one.chosen, one.keep, one.fit.name, one.fit.epochs) for one in planned] == [
        ("score", (0.1, 1.0), "condensed-0.1-1", 2),
        ("random", (0.1,), "random-0.1", 1),
        ("scratch", (0.3,), "scratch-6", 1),
    ]
    for one in planned:
        assert one.fit.options[:2] == ("--x", "y")
        assert (one.fit.checkpoint is None) == (one.chosen == "scratch")
    with pytest.raises(UsageError, match=r"--scratch 0\.33: of the 20 prompts per layer"):
        fits_of(source, Wanted([0.1], True, False, [0.33]), tmp_path)


def test_runs_that_differ_in_their_seeds_alone_are_one_group() -> None:
    def source(name: str, mode: str = "deep", seed: int = 0, epochs: int = 4) -> Source:
        config = {
            "seed_everything": seed,
            "name": name,
            "model": {"mode": mode, "num_prompts": 4},
            "data": {"init_args": {"seed": seed}},
            "condense": {"seed": seed, "prompt_epochs": epochs},
        }
        return Source(Path(name), name, config, {"prompts": 24})

    one, two = source("a"), source("b", seed=1)
    shallow, longer = source("c", "shallow"), source("d", epochs=5)
    assert _grouped([one, shallow, two]) == {
        "VPT-Deep, 24 prompts, 2 runs": [one, two],
        "VPT-Shallow, 24 prompts": [shallow],
    }
    assert _grouped([one, longer]) == {"VPT-Deep, a": [one], "VPT-Deep, d": [longer]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "1.2"], r"--keep 1.2; give fractions of the prompts, in \(0, 1\]"),
        (["--jobs", "0"], "--jobs 0; give at least 1"),
        (["--checkpoint", "prompt-best"], "leave out --checkpoint"),
        (["--scratch", "0.1", "--no-scratch"], "give one of them"),
        (["--scratch", "0.33"], "no whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_fit(
    run: Path, options: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        main(["curve", str(run), *options])
    assert not (run / "analysis").exists()


def test_runs_that_have_no_curve_are_refused(fitted: Any, run: Path) -> None:
    with pytest.raises(UsageError, match="linear probe has no prompts to keep"):
        main(["curve", str(fitted("linear", "--config", "linear.yaml"))])
    with pytest.raises(UsageError, match="an adapter can't be trained on"):
        main(["curve", str(run / "adapter.safetensors")])
    with pytest.raises(UsageError, match="runs need different names"):
        main(["curve", str(run), str(run)])
    results = json.loads((run / "results.json").read_text())
    results["data"]["held_out"] = False
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(UsageError, match="val is part of what was trained on; give --split test"):
        main(["curve", str(run)])
    (run / "results.json").unlink()
    with pytest.raises(UsageError, match="not finished yet"):
        main(["curve", str(run)])
