"""The benchmarks: each of them at a tiny size, what they compute, and the pages that show it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcvpt.data import DTD

from .conftest import ROOT

SLOW = pytest.mark.slow
VIT = "vit_tiny_patch16_224"
TINY = ("--backbone", VIT, "--image_size", "32", "--prompts", "3")
STEP = ("--backbones", VIT, "--image_size", "32", "--batch", "2", "--repeats")
RUNS: dict[str, tuple[str, ...]] = {
    "scoring": (*TINY, "--images", "4", "--batch", "2", "--repeats", "2"),
    "merging": (
        *(*TINY, "--images", "4", "--batch", "2", "--batches", "1"),
        *("--repeats", "1", "--rounds", "1"),
    ),
    "sizes": (*TINY, "--classes", "5"),
    "many_tasks": (
        *("--backbones", VIT, "--image_size", "32", "--prompts", "3", "--tasks", "2"),
        *("--batches", "2", "--repeats", "1", "--adapters", "3"),
    ),
    "step": (*STEP, "2", "--prompts", "0", "3", "--every_side_at", "0", "3"),
    "inference": (*TINY, "--batches", "1", "2", "--repeats", "2"),
    "fit": (*TINY, "--images", "8", "--batch", "4", "--repeats", "1", "--epochs", "1"),
    "host": (*TINY, "--batch", "2", "--repeats", "1", "--steps", "8"),
    "parity": (
        *("--backbones", "vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224"),
        *("--image_size", "32", "--prompts", "2"),
    ),
    "startup": ("--repeats", "1"),
    "data": ("--images", "12", "--epochs", "1"),
    "allocation": ("--backbone", VIT, "--batch=2", "--repeats=1", "--steps=1"),
    "task": (
        *("--train", "8", "--val", "4", "--test", "6", f"--model.backbone={VIT}"),
        *("--model.image_size=32", "--data.batch_size=4", "--data.num_workers=0"),
    ),
}
FAST = ("scoring", "sizes")


def _run(benchmarks: Any, name: str, results: Path, *options: str) -> dict[str, Any]:
    common = ("--device", "cpu", "--results", str(results))
    getattr(benchmarks, name).main([*common, *options])
    record: dict[str, Any] = json.loads((results / f"{name}_cpu.json").read_text())
    return record


@pytest.mark.parametrize("name", [pytest.param(n, marks=[SLOW] * (n not in FAST)) for n in RUNS])
def test_a_benchmark_runs_and_its_figures_reach_the_page(
    benchmarks: Any, name: str, tmp_path: Path
) -> None:
    record = _run(benchmarks, name, tmp_path, *RUNS[name])
    assert record.keys() >= {"date", "command", "hardware", "versions", "options"}
    assert record["versions"].keys() == {"python", "torch", "timm", "lightning", "pcvpt"}
    assert record["hardware"]["cpu"]
    if name not in ("data", "allocation", "startup"):
        text = benchmarks.tables.blocks(tmp_path)[name]
        assert record["date"] in text
        assert "Not measured" not in text
    if name == "sizes":
        (row,) = record["rows"]
        assert row["kept"] == round(0.3 * 12 * 3)
        head_and_kept = 4 * (5 * 193 + row["kept"] * 192)
        assert head_and_kept < row["adapter"] < head_and_kept + 3000
        assert row["adapter"] < row["finetune_last"] < row["whole"]
    elif name == "merging":
        (row,) = record["rows"]
        assert row["prompts"] == round(0.1 * 12 * 3)
        assert all(side["seconds"][0] > 0 for side in record["sides"].values())
    elif name == "task":
        seconds = sum(record["seconds"].values())
        assert sum(record["parts"].values()) == pytest.approx(seconds)
        assert all(part > 0 for part in record["parts"].values())
        # The test of this task is short.
        assert record["projected"]["vtab_s"] > 95 * record["projected"]["task_s"]
        assert record["floor_s"] < seconds
    elif name in ("step", "inference", "scoring"):
        for row in record["rows"]:
            assert row["peak_macs_per_s"] > 0
            for side in row["sides"].values():
                assert side["macs"] > 1e6
                assert len(side["seconds"]) == 2


@SLOW
def test_a_step_benchmark_has_the_named_sides(benchmarks: Any, tmp_path: Path) -> None:
    options = (*STEP, "1", "--prompts", "2", "--every_side_at", "--precision", "bf16")
    (row,) = _run(benchmarks, "step", tmp_path, *options)["rows"]
    assert list(row["sides"]) == ["release", "prefix"]
    assert row["precision"] == "bf16"
    held = {name: side["held_per_image"] for name, side in row["sides"].items()}
    assert 0 < held["prefix"] < held["release"]


@SLOW
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_sides(benchmarks: Any, tmp_path: Path) -> None:
    sides = ("--prompts", "2", "--every_side_at", "2", "--sides", "release", "prefix")
    rows = _run(benchmarks, "step", tmp_path, *STEP, "1", *sides, "--compile")["rows"]
    assert [row["compiled"] for row in rows] == [False, True]
    options = (*TINY, "--repeats", "1", "--batches", "1", "--sides", "timm", "--aot")
    (row,) = _run(benchmarks, "inference", tmp_path, *options)["rows"]
    assert list(row["sides"]) == ["timm", "AOTInductor"]


# Of ViT-B/16 with 10 prompts and Swin-B with 50, under bf16-mixed; more would slow down a step.
KERNELS = {"vit_base_patch16_224": (194, 275), "swin_base_patch4_window7_224": (389, 555)}


@pytest.mark.parametrize(
    "backbone", [n if n.startswith("vit") else pytest.param(n, marks=SLOW) for n in KERNELS]
)
def test_a_step_starts_no_more_kernels_than_it_did(benchmarks: Any, backbone: str) -> None:
    kernels = benchmarks.kernels
    module = kernels.tuner(backbone, dict(kernels.CASES)[backbone])
    found = kernels.count(module, 4, mixed=True)
    most = dict(zip(("forward", "backward"), KERNELS[backbone], strict=True))
    for name, own in found.items():
        assert 0 < own.total() <= most[name], own.most_common()


def test_without_a_gpu_the_command_says_so(
    benchmarks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^no GPU: [^\n]*$"):
        benchmarks.gpu.main([])


@SLOW
def test_the_plan_for_a_gpu_runs_in_miniature(benchmarks: Any, tmp_path: Path) -> None:
    benchmarks.gpu.main(["--device", "cpu", "--tiny", "--results", str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == {
        f"{name}_cpu" for name in benchmarks.gpu.plan(tiny=True)
    }
    assert benchmarks.gpu.plan(tiny=True).keys() == benchmarks.gpu.plan(tiny=False).keys()
    texts = benchmarks.tables.blocks(tmp_path)
    assert "2 runs at once" in texts["shared"]


@SLOW
def test_the_benchmark_of_the_board_measures_both_tasks(
    benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector = benchmarks.inspector
    monkeypatch.setitem(inspector.TASKS, "demo", (inspector.tuner_and_noise, 5))  # a shorter one
    options = (*TINY, "--images", "8", "--batch", "4", "--repeats", "1")
    epochs = ("--prompt_epochs", "1", "--finetune_epochs", "1")
    rows = _run(benchmarks, "inspector", tmp_path, *options, *epochs)["rows"]
    assert [row["task"] for row in rows] == ["demo", "vit"]
    for row in rows:
        (inside,) = row["inside"]
        (spent,) = row["sides"]["with"]["processor_seconds"]
        assert 0 < sum(inside.values()) < spent


def test_ratios_are_of_the_same_round(benchmarks: Any) -> None:
    times = {"a": {"seconds": [2.0, 8.0, 3.0]}, "b": {"seconds": [1.0, 2.0, 3.0]}}
    assert benchmarks.report.ratio(times, "a", "b") == (2.0, 1.0, 4.0)


def test_the_pages_say_what_the_results_say(benchmarks: Any) -> None:
    tables = benchmarks.tables
    tables.main(["--check"])
    shown = [name for page in tables.PAGES for name in tables.names(page.read_text())]
    assert sorted(shown) == sorted(tables.blocks(tables.RESULTS))


@pytest.mark.parametrize("study", ["real", "merging"])
def test_the_tables_of_the_experiments_are_those_of_their_results(study: str) -> None:
    report = ROOT / "experiments" / study / "report.py"
    assert subprocess.run([sys.executable, str(report), "--check"]).returncode == 0


def test_a_page_that_is_out_of_date_fails_the_check(benchmarks: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: step -->\n| 1 |\n<!-- end -->\nafter\n")
    options = ["--results", str(tmp_path), "--pages", str(page)]
    with pytest.raises(SystemExit, match=r"page\.md"):
        benchmarks.tables.main(["--check", *options])
    assert "| 1 |" in page.read_text()
    benchmarks.tables.main(options)
    assert "benchmarks/step.py" in page.read_text()
    assert page.read_text().startswith("before\n<!-- measured: step -->\n")
    assert page.read_text().endswith("\n<!-- end -->\nafter\n")
    benchmarks.tables.main(["--check", *options])


def test_goals_compare_with_the_faster_of_the_published_forms(benchmarks: Any) -> None:
    sides = {
        "release": {"seconds": [5.0, 6.0], "held_per_image": 10},
        "unfused": {"seconds": [4.0, 4.0]},
        "prefix": {"seconds": [2.0, 2.0], "held_per_image": 4},
    }
    row = {"backbone": "vit_base_patch16_224", "prompts": 200, "batch": 8, "sides": sides}
    plain = {**row, "precision": "float32", "compiled": False}
    other = {**plain, "precision": "bf16", "sides": {}}
    goals = benchmarks.goals.goals({"step_cpu": {"rows": [plain, other]}})
    assert [measured for *_, measured in goals] == ["2.00 (2.00 to 2.00)", "0.40"]


def test_parts_of_a_profile_do_not_overlap(benchmarks: Any, tmp_path: Path) -> None:
    strategy, tuner = "[Strategy]SingleDeviceStrategy.", "[LightningModule]PromptTuner."
    fitted = {
        "run_training_epoch": [90.0, 2],
        "[_TrainingEpochLoop].train_dataloader_next": [1.0, 8],
        f"{strategy}batch_to_device": [2.0, 8],
        f"{strategy}training_step": [30.0, 8],
        f"{strategy}backward": [40.0, 8],
        f"{tuner}optimizer_step": [75.0, 8],  # forward and backward within
        f"{strategy}validation_step": [6.0, 8],
        "[Callback]PromptCondensation.on_train_epoch_start": [7.0, 2],
    }
    tested = {f"{strategy}test_step": [4.0, 2], "[_EvaluationLoop].test_next": [3.0, 2]}
    ran = benchmarks.task.Ran(110.0, 10.0, [fitted, tested], {}, tmp_path)
    assert benchmarks.task.parts(ran) == {
        **{"data": 6.0, "forward": 30.0, "backward": 40.0, "optimizer": 5.0},
        **{"evaluation": 10.0, "condensing": 7.0, "rest": 22.0},
    }


def test_a_short_run_is_projected_to_full_length(benchmarks: Any, tmp_path: Path) -> None:
    task = benchmarks.task
    counts = {"train": 400, "val": 100, "test": 10, "prompt_epochs": 2, "finetune_epochs": 1}
    phases = {"seconds_prompt": 6.0, "seconds_finetune": 2.0, "seconds_condense": 1.0}
    tested = {"[Strategy]SingleDeviceStrategy.test_step": [5.0, 2]}
    ran = task.Ran(19.0, 8.0, [{}, tested], phases, tmp_path)
    found = task.projected(task.argparse.Namespace(task="dtd", **counts), ran, tested)
    # Twice the images; 3 s for each epoch of prompts, 2 s for one of fine-tuning; once: 10 s.
    fit = 10 + 2 * (100 * 3 + 20 * 2 + 1)
    assert found["task_s"] == pytest.approx(fit + 3 + 0.5 * 1880)
    tests = sum(row.test for row in task.TASKS.values() if row.suite == "vtab")
    assert found["vtab_s"] == pytest.approx(5 * (19 * (fit + 3) + 0.5 * tests))


def test_a_vtab_task_of_noise_is_read_as_one(benchmarks: Any, tmp_path: Path) -> None:
    counts = {"train800": 5, "val200": 2, "test": 3}
    benchmarks.synthetic.write_vtab(tmp_path / "dtd", 47, counts, (40, 30))
    splits = DTD(str(tmp_path), split="train800val200").splits
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [7, 2, 3]
    assert [item.label for item in splits.train] == [0, 1, 2, 3, 4, 0, 1]
