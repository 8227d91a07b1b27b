from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcvpt.analysis.attention_spectrum import attention_spectrum, over_blocks
from pcvpt.cli.analyze.images import images_of_split
from pcvpt.cli.analyze.trained_model import open_model

Capture = pytest.CaptureFixture[str]


def test_a_run_gives_curves_of_several_numbers_of_prompts(
    run: Path, analyze: Any, capsys: Capture
) -> None:
    found = analyze("spectrum", run, "--images", 2)
    assert found.files() == {"spectrum.csv", "spectrum.png", "spectrum.svg", "spectrum_rank.csv"}
    rows = found.rows("spectrum.csv")
    counts = {int(row["prompts_per_block"]) for row in rows}
    assert counts == {0, 5, 10, 20}
    assert len(rows) == sum(17 + count for count in counts)
    assert all(0 < float(row["share"]) < 1 + 1e-9 for row in rows)
    ranks = found.rows("spectrum_rank.csv")
    assert len(ranks) == 4 * 6
    lengths = {int(row["tokens_and_prompts"]) - int(row["prompts_per_block"]) for row in ranks}
    assert lengths == {17}
    picture = Image.open(found.folder / "spectrum.png").convert("L")
    assert np.asarray(picture).std() > 10
    text = capsys.readouterr().out
    assert "20 per block" in text
    assert "rank for 90 %" in text


@pytest.mark.slow
def test_the_numbers_are_those_of_the_best_scored_prompts(run: Path, analyze: Any) -> None:
    found = analyze("spectrum", run, "--images", 3, "--prompts", 7, "--values", "singular")
    trained = open_model(run, "prompt-last")
    model, scores = trained.model, open_model(run).model.prompts.scores
    assert not bool(model.prompts.scores.isfinite().any())
    best = scores.argsort(dim=1, descending=True)[:, :7]
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep).scatter(1, best, True)))
    sample = images_of_split(trained, "val", 3)
    mean, deviation = over_blocks(attention_spectrum(model, sample.images, "singular"))
    rows = found.rows("spectrum.csv")
    assert [float(row["share"]) for row in rows] == pytest.approx(mean.tolist())
    deviations = [float(row["deviation"]) for row in rows]
    assert deviations == pytest.approx(deviation.tolist())


@pytest.mark.parametrize(
    "which",
    [
        pytest.param(["--checkpoint", "finetune-best"], marks=pytest.mark.slow, id="run"),
        pytest.param([], id="adapter"),
    ],
)
def test_each_block_has_the_prompts_that_it_keeps(
    run: Path, analyze: Any, which: list[str], capsys: Capture
) -> None:
    kept = open_model(run).model.prompts.counts()
    path = run if which else run / "adapter.safetensors"
    found = analyze("spectrum", path, *which, "--images", 2, "--prompts", max(kept))
    rows = found.rows("spectrum_rank.csv")
    assert [int(row["tokens_and_prompts"]) - 17 for row in rows] == kept
    assert ("no scores here" in capsys.readouterr().out) == (not which)


@pytest.mark.slow
def test_several_runs_give_a_curve_each(
    run: Path, swin_run: Path, analyze: Any, capsys: Capture
) -> None:
    rows = analyze("spectrum", run, swin_run, "--images", 2).rows("spectrum.csv")
    curves = {(row["run"], row["prompts_per_block"]) for row in rows}
    assert curves == {("demo/version_0", "20"), ("swin/version_0", "6")}
    assert "of Swin over windows" in " ".join(capsys.readouterr().out.split())
