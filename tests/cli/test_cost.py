"""``pcvpt cost`` as a user types it, on the demo's small backbone."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pcvpt.analysis.cost import bare_cost, condensed_cost, prefix_cost, tokens_cost
from pcvpt.models import PromptedTransformer, create_model

from .conftest import Command

Run = Callable[..., tuple[int, str]]
SMALL = ("--model.backbone", "vit_demo_patch8_32")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Run:
    """Run ``pcvpt cost`` in an empty folder; return its exit status and all that it printed."""
    monkeypatch.chdir(tmp_path)
    return lambda *options: command("cost", *options)[:2]


@pytest.fixture(scope="module")
def demo() -> PromptedTransformer:
    return create_model("vit_demo_patch8_32", 10, 20, pretrained=False)


def _rows(said: str) -> dict[str, list[str]]:
    """Return the cells of each line of the tables by its first cell."""
    lines = [re.split(r"\s*│\s*", line.strip("│ ")) for line in said.splitlines() if "│" in line]
    return {first: rest for first, *rest in lines}


def test_the_table_has_a_row_for_each_form(run: Run, demo: PromptedTransformer) -> None:
    status, said = run("--config", "demo.yaml")
    assert status == 0
    rows = _rows(said)
    costs = {
        "bare": bare_cost(demo),
        "tokens": tokens_cost(demo),
        "prefix": prefix_cost(demo),
        "condensed (36 of 120)": condensed_cost(demo, [6] * 6),
    }
    assert rows.keys() == costs.keys()
    for name, cost in costs.items():
        macs, ratio, shared, trained, frozen = rows[name]
        assert macs == f"{cost.macs / 1e6:,.1f} M"
        assert ratio == f"{cost.macs / costs['bare'].macs:.1%}"
        assert shared == (f"{cost.shared / 1e6:,.1f} M" if cost.shared else "-")
        assert (trained, frozen) == (f"{cost.trained:,}", f"{cost.frozen:,}")
    assert "vit_demo_patch8_32, 10 classes" in said
    assert "spread evenly" in said


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (["--condense.keep=0.1", "--model.num_prompts=10"], ["condensed (6 of 60)"]),
        (["--config=shallow.yaml", "--condense.keep=0.1"], ["condensed (2 of 20)"]),
        (["--config=vpt.yaml"], []),
        (["--condense.keep=[0.1,0.3]"], ["condensed (12 of 120)", "condensed (36 of 120)"]),
        (["--condense.keep=null", "--condense.max_drop=1"], []),
        (["--condense.keep=null", "--condense.count=7"], ["condensed (7 of 120)"]),
        (["--config=linear.yaml"], None),
    ],
)
def test_options_and_further_configs_count_as_for_fit(
    options: list[str], rows: list[str] | None, run: Run, demo: PromptedTransformer
) -> None:
    found = _rows(run("--config=demo.yaml", *options)[1])
    expected = ["bare", "prefix"] if rows is None else ["bare", "tokens", "prefix", *rows]
    assert list(found) == expected
    if rows == ["condensed (7 of 120)"]:
        trained = condensed_cost(demo, [2, 1, 1, 1, 1, 1]).trained
        assert found[rows[0]][3] == f"{trained:,}"


def test_the_blocks_and_the_rest_are_listed(run: Run, demo: PromptedTransformer) -> None:
    _, said = run("--config", "demo.yaml", "--per_block")
    rows = _rows(said)
    for block, plain in zip(tokens_cost(demo).blocks, bare_cost(demo).blocks, strict=True):
        frozen, bare, tokens, *_ = rows[block.name]
        assert frozen == f"{block.frozen:,}"
        assert bare == f"{plain.macs / 1e6:,.1f} M, 0"
        assert tokens == f"{block.macs / 1e6:,.1f} M, {20 * 160:,}"
    assert rows["the rest, with the head"][1].endswith(f", {160 * 10 + 10:,}")


def test_the_csv_has_everything_and_is_not_overwritten(
    run: Run, tmp_path: Path, demo: PromptedTransformer
) -> None:
    status, said = run("--config", "demo.yaml", "--csv", "cost.csv")
    assert status == 0
    assert "Written: cost.csv" in said
    with (tmp_path / "cost.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (1 + 6)
    prefix = [row for row in rows if row["form"] == "prefix"]
    cost = prefix_cost(demo)
    assert prefix[0]["block"] == "all"
    assert int(prefix[0]["multiply_accumulates"]) == cost.macs
    assert int(prefix[0]["once_per_batch"]) == cost.shared
    assert float(prefix[0]["ratio"]) == pytest.approx(cost.macs / bare_cost(demo).macs, abs=1e-6)
    assert [int(row["multiply_accumulates"]) for row in prefix[1:]] == [b.macs for b in cost.blocks]
    assert [int(row["trained_parameters"]) for row in prefix[1:]] == [20 * 160] * 6
    status, said = run("--config", "demo.yaml", "--csv", "cost.csv")
    assert status == 2
    assert "cost.csv exists" in said


def test_classes_are_the_tasks_or_the_options(run: Run) -> None:
    _, said = run("--config", "cars.yaml", *SMALL, "--model.num_prompts=1")
    assert "196 classes" in said
    _, said = run("--config", "folder.yaml", "--num_classes", "7", *SMALL)
    assert _rows(said)["bare"][3] == f"{160 * 7 + 7:,}"
    status, said = run("--config", "folder.yaml", *SMALL)
    assert status == 2
    assert (
        "ImageFolderDataModule knows its classes only from the images; give --num_classes" in said
    )


def test_no_weights_are_read(run: Run) -> None:
    status, _ = run("--config", "demo.yaml", "--model.pretrained", "nowhere.pth")
    assert status == 0


def test_a_finished_runs_config_is_taken(run: Run, finished: Path) -> None:
    status, said = run("--config", str(finished / "config.yaml"))
    assert status == 0
    assert "condensed (36 of 120)" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_classes", "7"], "give --config FILE"),
        (["--config", "dmeo.yaml"], "no configuration dmeo.yaml"),
        (["--config", "demo.yaml", "--num_classes", "x"], "num_classes"),
        (["--config", "demo.yaml", "--num_classes", "1"], "needs at least 2"),
        (["--config", "demo.yaml", "--condense.keep", "2"], "keep=2"),
        (["--config", "demo.yaml", "--condense.count", "5"], "give one of them"),
        (["--config", "demo.yaml", "--model.backbone", "vit_bse"], "unknown backbone 'vit_bse'"),
        (["--config", "demo.yaml", "--model.prompts", "5"], "prompts"),
        (["--config", "demo.yaml", "--csv", "no/such.csv"], "no/such.csv: not writable"),
        (["demo.yaml"], "give --config FILE"),
    ],
)
def test_bad_input_ends_with_one_clear_line(run: Run, options: list[str], message: str) -> None:
    status, said = run(*options)
    assert status == 2
    (line,) = [line for line in said.splitlines() if "error" in line]
    assert line.startswith("pcvpt: error: ")
    assert message in line


def test_help_says_what_it_takes(run: Run) -> None:
    status, said = run("--help")
    assert status == 0
    for option in ("--config", "--num_classes", "--per_block", "--csv"):
        assert option in said
