import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from pcvpt.analysis.cost import prefix_cost, present_cost, tokens_cost
from pcvpt.cli.analyze.main import main
from pcvpt.cli.analyze.trained_model import open_subject
from pcvpt.errors import UsageError

QUICK = ("--repeats", "1", "--batches", "1", "3")


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "cost.csv").open() as text:
        return list(csv.DictReader(text))


def test_counts_times_and_memory_of_a_run_are_written(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cost", str(run), *QUICK]) == 0
    assert {file.name for file in (run / "analysis").iterdir()} == {
        "cost.csv",
        "cost.png",
        "cost.svg",
    }
    rows = _rows(run / "analysis")
    counts = [0.0, 5.0, 10.0, 20.0, 40.0]
    assert [float(row["prompts_per_layer"]) for row in rows] == [*counts, *counts, 6.0]
    model = open_subject(run).model
    macs = {(row["form"], int(row["prompts"])): int(row["multiply_accumulates"]) for row in rows}
    assert macs["tokens", 120] == tokens_cost(model).macs
    assert macs["prefix", 120] == prefix_cost(model).macs
    assert macs["condensed", 36] == present_cost(model).macs
    for row in rows:
        assert row["backbone"] == "vit_demo_patch8_32"
        assert row["device"]
        assert int(row["threads"]) >= 1
        assert float(row["memory_bytes_per_image"]) > 0
        for size in (1, 3):
            low, middle, high = (
                float(row[f"seconds_batch_{size}{edge}"])
                for edge in ("_lower_quartile", "", "_upper_quartile")
            )
            assert 0 < low <= middle <= high
    assert "condensed" in capsys.readouterr().out


def test_an_adapter_needs_no_images(run: Path, tmp_path: Path) -> None:
    adapter = shutil.copy(run / "adapter.safetensors", tmp_path / "alone.safetensors")
    main(["cost", str(adapter), *QUICK, "--prompts", "0", "8"])
    rows = _rows(tmp_path / "alone")
    assert [row["form"] for row in rows] == ["tokens", "tokens", "prefix", "prefix", "condensed"]
    assert rows[-1]["prompts"] == "36"


def test_swin_and_shallow_are_measured_too(swin_run: Path, fitted: Any, tmp_path: Path) -> None:
    main(["cost", str(swin_run), *QUICK, "--prompts", "2"])
    assert [row["form"] for row in _rows(swin_run / "analysis")] == [
        "tokens",
        "prefix",
        "condensed",
    ]
    shallow = fitted("shallow", "--config", "shallow.yaml")
    main(["cost", str(shallow), *QUICK, "--prompts", "2", "--output", str(tmp_path)])
    assert [row["prompts"] for row in _rows(tmp_path)][:2] == ["2", "2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prompts", "-1"], "--prompts -1; give at least 0"),
        (["--batches", "0"], "--batches 0; give at least 1"),
        (["--repeats", "0"], "--repeats 0; give at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(run: Path, options: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        main(["cost", str(run), *options])


def test_a_linear_probe_is_refused(fitted: Any) -> None:
    linear = fitted("linear", "--config", "linear.yaml")
    with pytest.raises(UsageError, match=r"linear.*a linear probe has no prompts"):
        main(["cost", str(linear)])
