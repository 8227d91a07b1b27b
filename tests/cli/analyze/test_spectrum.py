import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcvpt.analysis.attention_spectrum import attention_spectrum, over_blocks
from pcvpt.cli.analyze.images import of_split
from pcvpt.cli.analyze.main import main
from pcvpt.cli.analyze.trained_model import open_subject
from pcvpt.errors import UsageError

FILES = {f"spectrum.{kind}" for kind in ("csv", "png", "svg")} | {"spectrum_rank.csv"}


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open() as text:
        return list(csv.DictReader(text))


def test_a_run_gives_tables_and_figures_of_several_prompt_counts(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spectrum", str(run), "--images", "4"]) == 0
    folder = run / "analysis"
    assert {file.name for file in folder.iterdir()} == FILES
    rows = _rows(folder / "spectrum.csv")
    counts = {int(row["prompts_per_block"]) for row in rows}
    assert counts == {0, 5, 10, 20}
    assert len(rows) == sum(17 + count for count in counts)
    assert all(0 < float(row["share"]) < 1 + 1e-9 for row in rows)
    ranks = _rows(folder / "spectrum_rank.csv")
    assert len(ranks) == 4 * 6
    lengths = {int(row["tokens_and_prompts"]) - int(row["prompts_per_block"]) for row in ranks}
    assert lengths == {17}
    assert len(set(Image.open(folder / "spectrum.png").convert("RGB").getdata())) > 100
    said = capsys.readouterr().out
    assert "20 per block" in said
    assert "rank for 90 %" in said
    with pytest.raises(UsageError, match="--overwrite"):
        main(["spectrum", str(run), "--images", "4"])
    assert main(["spectrum", str(run), "--images", "4", "--overwrite", "--prompts", "1"]) == 0
    assert {row["prompts_per_block"] for row in _rows(folder / "spectrum.csv")} == {"1"}


def test_the_numbers_are_those_of_the_best_scored_prompts(run: Path, tmp_path: Path) -> None:
    main(
        [
            *("spectrum", str(run), "--images", "3", "--prompts", "7", "--values", "singular"),
            *("--output", str(tmp_path / "out")),
        ]
    )
    subject = open_subject(run, "prompt-last")
    scores = open_subject(run).model.prompts.scores
    assert not bool(subject.model.prompts.scores.isfinite().any())
    best = scores.argsort(dim=1, descending=True)[:, :7]
    keep = torch.zeros_like(subject.model.prompts.keep).scatter(1, best, True)
    subject.model.prompts.apply_mask(list(keep))
    sample = of_split(subject, "val", 3)
    expected = over_blocks(attention_spectrum(subject.model, sample.images, "singular"))
    rows = _rows(tmp_path / "out" / "spectrum.csv")
    assert [float(row["share"]) for row in rows] == pytest.approx(expected.mean.tolist())
    deviations = [float(row["deviation"]) for row in rows]
    assert deviations == pytest.approx(expected.deviation.tolist())


def test_several_runs_give_a_curve_each(
    run: Path, swin_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["spectrum", str(run), str(swin_run), "--images", "2", "--output", str(out)])
    rows = _rows(out / "spectrum.csv")
    assert {(row["run"], row["prompts_per_block"]) for row in rows} == {
        ("demo/version_0", "20"),
        ("swin/version_0", "6"),
    }
    assert "of Swin over windows" in " ".join(capsys.readouterr().out.split())


def test_a_condensed_checkpoint_and_an_adapter_have_no_more_than_they_keep(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--images", "2", "--output", str(tmp_path / "out"), "--overwrite"]
    kept = open_subject(run).model.prompts.counts()
    for subject, more in (
        (run, ["--checkpoint", "finetune-best"]),
        (run / "adapter.safetensors", []),
    ):
        main(["spectrum", str(subject), *more, *out, "--prompts", str(max(kept))])
        rows = _rows(tmp_path / "out" / "spectrum_rank.csv")
        assert [int(row["tokens_and_prompts"]) - 17 for row in rows] == kept
        with pytest.raises(UsageError, match=f"{max(kept) + 1} prompts; the model keeps"):
            main(["spectrum", str(subject), *more, *out, "--prompts", str(max(kept) + 1)])
    assert "no scores here" in capsys.readouterr().out  # of the adapter


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--share", "0"], "share=0"),
        (["--images", "0"], "give at least 1"),
        (["--prompts", "21"], "keeps 20 at most"),
        (["--prompts", "-1"], "-1 prompts"),
        (["--checkpoint", "other"], "no such checkpoint"),
        (["--device", "other"], "--device other"),
    ],
)
def test_wrong_options_end_before_anything_is_written(
    run: Path, options: list[str], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        main(["spectrum", str(run), *options])
    assert not (run / "analysis").exists()


def test_a_linear_probe_is_refused(fitted: Any) -> None:
    probe = fitted("probe", "--config", "linear.yaml")
    for name in ("spectrum", "layers", "attention"):
        with pytest.raises(UsageError, match=r"probe.*a linear probe has no prompts"):
            main([name, str(probe)])
