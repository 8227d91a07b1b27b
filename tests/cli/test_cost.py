"""``pcvpt cost`` as a user types it, on the demo's small backbone."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pcvpt.analysis.cost import bare_cost, condensed_cost, prefix_cost, tokens_cost
from pcvpt.models import PromptedTransformer, create_model

from .conftest import Command, Refusal

Run = Callable[..., str]
SMALL = ("--model.backbone=vit_demo_patch8_32", "--model.num_prompts=1")
PRUNED = "--config=demo.yaml --condense.method=prune"


@pytest.fixture
def run(work: Path, command: Command) -> Run:
    """Run ``pcvpt cost`` in an empty folder; return what it printed."""

    def printed(*options: object) -> str:
        ended = command("cost", *options)
        assert ended.status == 0
        return ended.output

    return printed


@pytest.fixture(scope="module")
def demo() -> PromptedTransformer:
    return create_model("vit_demo_patch8_32", 10, 20, pretrained=False)


def _rows(said: str) -> dict[str, list[str]]:
    """Return the cells of each line of the tables by its first cell."""
    lines = [re.split(r"\s*│\s*", line.strip("│ ")) for line in said.splitlines() if "│" in line]
    return {first: rest for first, *rest in lines}


def test_forms_and_blocks_are_printed_and_written(
    run: Run, demo: PromptedTransformer, work: Path
) -> None:
    said = run("--config=demo.yaml", "--per_block", "--csv=new/cost.csv")
    assert "vit_demo_patch8_32, VPT-Deep, 10 classes" in said
    rows = _rows(said)
    costs = {
        "bare": bare_cost(demo),
        "tokens": tokens_cost(demo),
        "prefix": prefix_cost(demo),
        # The demo merges its prompts, and trains what is left as keys and values.
        "condensed (12 of 120)": condensed_cost(demo, [2] * 6, form="key_value"),
    }
    for name, cost in costs.items():
        ratio = f"{cost.macs / costs['bare'].macs:.1%}"
        shared = f"{cost.shared / 1e6:,.1f} M" if cost.shared else "-"
        parameters = [f"{cost.trained:,}", f"{cost.frozen:,}"]
        assert rows.pop(name) == [f"{cost.macs / 1e6:,.1f} M", ratio, shared, *parameters]
    blocks = zip(costs["bare"].blocks, costs["tokens"].blocks, strict=True)
    for bare, tokens in blocks:
        texts = [f"{bare.macs / 1e6:,.1f} M, 0", f"{tokens.macs / 1e6:,.1f} M, {20 * 160:,}"]
        assert rows.pop(bare.name)[:3] == [f"{bare.frozen:,}", *texts]
    assert [row[1].rpartition(", ")[2] for row in rows.values()] == [f"{160 * 10 + 10:,}"]

    with (work / "new" / "cost.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * (1 + 6)
    whole, *parts = (line for line in lines if line["form"] == "prefix")
    cost = costs["prefix"]
    assert [whole["block"], int(whole["multiply_accumulates"])] == ["all", cost.macs]
    assert int(whole["once_per_batch"]) == cost.shared
    assert float(whole["ratio"]) == pytest.approx(cost.macs / costs["bare"].macs, abs=1e-6)
    assert [int(line["multiply_accumulates"]) for line in parts] == [b.macs for b in cost.blocks]
    assert [int(line["trained_parameters"]) for line in parts] == [20 * 160] * 6


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ("--config=shallow.yaml --condense.keep=0.1", ["condensed (2 of 20)"]),
        ("--config=prefix.yaml", ["condensed (12 of 120)"]),
        ("--config=vpt.yaml --model.image_size=16", []),
        ("--condense.keep=[0.1,0.3]", ["condensed (12 of 120)", "condensed (36 of 120)"]),
        ("--condense.keep=null --condense.max_drop=1", []),
        ("--condense.keep=null --condense.count=7", ["condensed (7 of 120)"]),
        ("--config=linear.yaml --model.pretrained=nowhere.pth", None),
    ],
)
def test_options_and_further_configs_count_as_for_fit(
    options: str, rows: list[str] | None, run: Run
) -> None:
    found = _rows(run("--config=demo.yaml", *options.split()))
    assert list(found) == ["bare", *([] if rows is None else ["tokens"]), "prefix", *(rows or [])]


def test_keys_and_values_are_twice_the_numbers_and_cost_an_image_no_more(run: Run) -> None:
    deep = _rows(run("--config=demo.yaml", "--condense.method=prune"))
    own = _rows(run("--config=demo.yaml", "--config=prefix.yaml"))
    head = 160 * 10 + 10
    for form, count in ("prefix", 120), ("condensed (12 of 120)", 12):
        assert deep[form][3] == f"{count * 160 + head:,}"
        assert own[form][3] == f"{count * 2 * 160 + head:,}"
        macs, once = (float(cell.removesuffix(" M")) for cell in (deep[form][0], deep[form][2]))
        assert own[form][2] == "-"  # nothing has to be computed once for a batch
        assert float(own[form][0].removesuffix(" M")) == pytest.approx(macs - once, abs=0.11)
    assert own["bare"] == deep["bare"]


@pytest.mark.parametrize(
    ("options", "title", "explained"),
    [
        ("", "VPT-Deep", True),
        ("--condense.method=prune", "VPT-Deep", False),
        ("--condense.method=prune --condense.finetune_as=key_value", "VPT-Deep", True),
        ("--condense.finetune_as=token", "VPT-Deep", False),
        ("--model.execution=tokens", "VPT-Deep", False),
        ("--model.mode=prefix", "visual prefix tuning", True),
        ("--model.mode=shallow", "VPT-Shallow", False),
        ("--config=linear.yaml --model.pretrained=nowhere.pth", "linear probe", False),
    ],
)
def test_the_title_names_the_mode_and_numbers_are_told_where_prompts_are_keys_and_values(
    options: str, title: str, explained: bool, run: Run
) -> None:
    said = run("--config=demo.yaml", *options.split())
    assert f"vit_demo_patch8_32, {title}, 10 classes" in said
    numbers = "numbers of a prompt: 320 as a key and a value, 160 as a token"
    assert (numbers in said) == explained


def test_classes_are_those_of_the_task_or_the_option(run: Run) -> None:
    assert "196 classes" in run("--config=cars.yaml", *SMALL)
    said = run("--config=folder.yaml", "--num_classes=7", *SMALL)
    assert _rows(said)["bare"][3] == f"{160 * 7 + 7:,}"


def test_a_finished_runs_config_is_taken(run: Run, finished: Path) -> None:
    assert "condensed (36 of 120)" in run("--config", finished / "config.yaml")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--num_classes=7", "--config"),
        ("demo.yaml", "--config"),
        ("--config=dmeo.yaml", "dmeo.yaml"),
        ("--config=folder.yaml", "ImageFolderDataModule"),
        ("--config=demo.yaml --data=null", "--num_classes"),
        ("--config=demo.yaml --num_classes=x", "num_classes"),
        ("--config=demo.yaml --num_classes=1", "at least 2"),
        ("--config=demo.yaml --condense.keep=2", "keep=2"),
        ("--config=demo.yaml --condense.count=5", "one of them"),
        (f"{PRUNED} --model.mode=shallow --condense.finetune_as=key_value", "mode 'shallow'"),
        (f"{PRUNED} --model.execution=tokens --condense.finetune_as=key_value", "='tokens'"),
        (f"{PRUNED} --model.mode=prefix --condense.finetune_as=token", "finetune_as='token'"),
        ("--config=demo.yaml --model.backbone=vit_bse", "'vit_bse'"),
        ("--config=demo.yaml --model.prompts=5", "prompts"),
        ("--config=demo.yaml --csv=.", ". exists"),
        ("--config=demo.yaml --csv=/dev/null/a.csv", "/dev/null/a.csv"),
    ],
)
def test_bad_input_ends_with_one_line(
    options: str, named: str, refusal: Refusal, work: Path
) -> None:
    assert named in refusal("cost", *options.split())


def test_help_lists_the_options(run: Run) -> None:
    for option in ("--config", "--num_classes", "--per_block", "--csv"):
        assert option in run("--help")
