from pathlib import Path
from typing import Any

import pytest

from pcvpt.analysis.cost import condensed_cost, prefix_cost, tokens_cost
from pcvpt.cli.analyze.trained_model import open_model

QUICK = ("--repeats", 1, "--batches", 1, 3)
EDGES = ("", "_lower_quartile", "_upper_quartile")


def test_counts_times_and_memory_of_an_adapter_are_written(
    adapter: Path, analyze: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = analyze("cost", adapter, *QUICK, "--prompts", 20)
    assert found.files() == {"cost.csv", "cost.png", "cost.svg"}
    rows = found.rows("cost.csv")
    assert [float(row["prompts_per_layer"]) for row in rows] == [20, 20, 6]
    model = open_model(adapter).model
    macs = {(row["form"], int(row["prompts"])): int(row["multiply_accumulates"]) for row in rows}
    assert macs["condensed", 36] == condensed_cost(model, list(model.prompts.keep)).macs
    columns = {*rows[0]}
    for size in (1, 3):
        times = {
            f"seconds_batch_{size}{edge}" for edge in ("", "_lower_quartile", "_upper_quartile")
        }
        assert times < columns
    assert {row["backbone"] for row in rows} == {"vit_demo_patch8_32"}
    assert all(row["device"] and float(row["memory_bytes_per_image"]) > 0 for row in rows)
    assert "condensed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_measured_with_fractions_and_twice_its_prompts(run: Path, analyze: Any) -> None:
    rows = analyze("cost", run, *QUICK).rows("cost.csv")
    counts = [0, 5, 10, 20, 40]
    assert [float(row["prompts_per_layer"]) for row in rows] == [*counts, *counts, 6]
    model = open_model(run).model
    macs = {(row["form"], int(row["prompts"])): int(row["multiply_accumulates"]) for row in rows}
    assert macs["tokens", 120] == tokens_cost(model).macs
    assert macs["prefix", 120] == prefix_cost(model).macs
