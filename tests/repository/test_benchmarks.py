"""The benchmarks: their baseline, their counts, their pages, and each of them at a tiny size."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcvpt import UsageError, create_model
from pcvpt.analysis.activation_memory import held_for_backward
from pcvpt.analysis.cost import condensed_cost

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLASSES, PROMPTS = 5, 6
VIT: tuple[str, dict[str, Any]] = ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3})
SWIN: tuple[str, dict[str, Any]] = (
    "swin_tiny_patch4_window7_224",  # windows 2 x 2, of which every second block's are shifted
    {
        "img_size": 32,
        "embed_dim": 12,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": 4,
    },
)
TINY = ("--backbone", "vit_tiny_patch16_224", "--image_size", "32", "--prompts", "3")
FAMILIES = pytest.mark.parametrize("family", [VIT, SWIN], ids=["vit", "swin"])


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a benchmark as its command does: from its own folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def by_name(name: str) -> ModuleType:
        return importlib.import_module(name)

    return by_name


def _batch(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, *size, generator=generator)
    return images, torch.arange(count) % CLASSES


def _ours(family: tuple[str, dict[str, Any]], **options: Any) -> Any:
    name, size = family
    return create_model(name, CLASSES, PROMPTS, pretrained=False, **size, **options)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@FAMILIES
def test_the_release_form_is_our_function(
    benchmark: Any, family: tuple[str, dict[str, Any]], fused: bool
) -> None:
    pooled = {"pool_prompts": True} if family is SWIN else {}
    ours = _ours(family, execution="tokens", **pooled)
    for parameter in ours.parameters():  # so that attention is far from uniform
        parameter.data += 0.1 * torch.randn_like(parameter)
    form = benchmark("release").release_form(family[0], CLASSES, PROMPTS, fused=fused, **family[1])
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith("prompts.")}
    form.backbone.load_state_dict(weights)
    for layer, prompts in enumerate(form.prompts):
        prompts.data.copy_(ours.prompts.layer_values(layer))
    images, labels = _batch(3, ours.patch_embed.img_size)
    logits = [model.double().train()(images.double()) for model in (ours, form)]
    torch.testing.assert_close(*logits, rtol=1e-10, atol=1e-10)
    for output in logits:
        F.cross_entropy(output, labels).backward()
    of_ours = [row for _, run in ours.prompts.runs() for row in run.grad]
    assert len(of_ours) == len(form.prompts)
    for got, prompts in zip(of_ours, form.prompts, strict=True):
        assert prompts.grad.abs().max() > 1e-4
        torch.testing.assert_close(got, prompts.grad, rtol=1e-9, atol=1e-10)
    trained = {name for name, value in form.named_parameters() if value.requires_grad}
    head = "head.fc" if family is SWIN else "head"
    named = {f"prompts.{layer}" for layer in range(len(form.prompts))}
    assert trained == named | {f"backbone.{head}.weight", f"backbone.{head}.bias"}


@FAMILIES
def test_the_release_form_without_prompts_is_the_bare_backbone(
    benchmark: Any, family: tuple[str, dict[str, Any]]
) -> None:
    form = benchmark("release").release_form(family[0], CLASSES, 0, **family[1]).train()
    images, labels = _batch(2, form.backbone.patch_embed.img_size)
    logits = form(images)
    torch.testing.assert_close(logits, form.backbone(images), rtol=1e-5, atol=1e-5)
    F.cross_entropy(logits, labels).backward()
    assert len(list(form.prompts)) == 0


@FAMILIES
def test_prompt_dropout_of_the_release_form(
    benchmark: Any, family: tuple[str, dict[str, Any]]
) -> None:
    form = benchmark("release").release_form(family[0], CLASSES, PROMPTS, dropout=0.5, **family[1])
    drawn = form.train().drawn(0, 2)
    assert 0.2 < float((drawn == 0).float().mean()) < 0.8
    assert bool((drawn[0] == drawn[1]).all()) is (family is SWIN)  # its one mask is of the batch
    assert bool((form.eval().drawn(0, 2) != 0).all())


def test_a_family_that_the_release_does_not_have_is_refused(benchmark: Any) -> None:
    with pytest.raises(UsageError, match="vit_base_patch16_gap_224"):
        benchmark("release").release_form("vit_base_patch16_gap_224", CLASSES, 2)


def _measured(benchmark: Any, model: Any, size: tuple[int, int]) -> tuple[Any, ...]:
    """Return what one image adds and what a batch shares: forward, backward, bytes held."""
    count = benchmark("arithmetic").multiply_accumulates
    model.train()

    def forward(images: int) -> None:
        with torch.no_grad():
            model(_batch(images, size)[0])

    def step(images: int) -> None:
        batch, labels = _batch(images, size)
        F.cross_entropy(model(batch), labels).backward()

    forwards = [count(lambda n=n: forward(n)) for n in (1, 2)]
    steps = [count(lambda n=n: step(n)) for n in (1, 2)]
    each, shared = forwards[1] - forwards[0], 2 * forwards[0] - forwards[1]
    backward = steps[1] - steps[0] - each, 2 * steps[0] - steps[1] - shared
    held = [held_for_backward(model, *_batch(n, size)) for n in (2, 3)]
    return each, backward[0], held[1] - held[0], shared, backward[1]


def _shapes(benchmark: Any) -> dict[str, Any]:
    formulas = benchmark("formulas")
    stages = formulas.Stage(2, 64, 12, 2, 16), formulas.Stage(2, 16, 24, 4, 16)
    return {
        VIT[0]: formulas.ViT(blocks=3, n=17, d=192, h=3, patch=768, classes=CLASSES),
        SWIN[0]: formulas.Swin(stages, patch=48, classes=CLASSES),
    }


def _assert_as_counted(cost: Any, measured: tuple[Any, ...]) -> None:
    forward, backward, held, shared_forward, shared_backward = measured
    assert (cost.forward, cost.shared_forward) == (forward, shared_forward)
    assert (cost.backward, cost.shared_backward) == (backward, shared_backward)
    assert cost.held == pytest.approx(held, rel=0.01)  # versions of torch differ in small things


@FAMILIES
def test_formulas_of_tokens_are_what_the_release_form_executes(
    benchmark: Any, family: tuple[str, dict[str, Any]]
) -> None:
    form = benchmark("release").release_form(family[0], CLASSES, PROMPTS, **family[1])
    shape = _shapes(benchmark)[family[0]]
    blocks = len(list(form.prompts))
    measured = _measured(benchmark, form, form.backbone.patch_embed.img_size)
    _assert_as_counted(shape.deep("tokens", [PROMPTS] * blocks), measured)
    tokens = _ours(family, execution="tokens")
    assert condensed_cost(tokens, [PROMPTS] * blocks, "tokens").macs == measured[0]


KEPT = [[6, 6, 6], [6, 1, 3], [0, 2, 6], [4, 0, 0], [0, 0, 3]]


@pytest.mark.parametrize(
    ("family", "kept"), [*((VIT, kept) for kept in KEPT), (SWIN, [6] * 4), (SWIN, [3, 1, 6, 2])]
)
def test_formulas_of_prefix_are_what_our_model_executes(
    benchmark: Any, family: tuple[str, dict[str, Any]], kept: list[int]
) -> None:
    shape, model = _shapes(benchmark)[family[0]], _ours(family)
    model.prompts.apply_mask([torch.arange(PROMPTS) < count for count in kept])
    size = model.patch_embed.img_size
    cost = shape.deep("prefix", kept)
    _assert_as_counted(cost, _measured(benchmark, model, size))
    fvcore = condensed_cost(model, kept)
    assert (cost.forward + cost.shared_forward, cost.shared_forward) == (fvcore.macs, fvcore.shared)
    model.freeze_prompts()
    frozen = shape.deep("frozen", kept)
    for batch in (1, 3):
        count = benchmark("arithmetic").multiply_accumulates
        executed = count(lambda batch=batch: model(_batch(batch, size)[0]))
        assert executed == frozen.inference(batch) == batch * cost.forward


@pytest.mark.parametrize("execution", ["tokens", "prefix"])
def test_formulas_of_shallow(benchmark: Any, execution: str) -> None:
    model = _ours(VIT, mode="shallow", execution=execution)
    cost = _shapes(benchmark)[VIT[0]].shallow(execution, PROMPTS)
    measured = _measured(benchmark, model, model.patch_embed.img_size)
    assert (cost.forward, cost.backward) == measured[:2]
    assert cost.held == pytest.approx(measured[2], rel=0.03)  # ours norms the image's rows alone


def test_prompt_dropout_makes_every_image_pay_for_its_prompts(benchmark: Any) -> None:
    model = _ours(VIT, prompt_dropout=0.1)
    shape = _shapes(benchmark)[VIT[0]]
    cost = shape.deep("prefix", [PROMPTS] * 3)
    count = benchmark("arithmetic").multiply_accumulates
    images, labels = _batch(2, model.patch_embed.img_size)
    model.train()
    executed = count(lambda: F.cross_entropy(model(images), labels).backward())
    assert executed == 2 * cost.step(1)


def test_sides_take_turns_and_the_first_round_does_not_count(benchmark: Any) -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    between = lambda: calls.append("-")  # noqa: E731
    times = benchmark("timing").alternate(sides, 2, torch.device("cpu"), between=between)
    assert calls == ["a", "b", "-"] * 3
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}


def test_ratios_are_of_the_same_round(benchmark: Any) -> None:
    times = {"a": {"seconds": [2.0, 8.0, 3.0]}, "b": {"seconds": [1.0, 2.0, 3.0]}}
    assert benchmark("report").ratio(times, "a", "b") == (2.0, 1.0, 4.0)


def test_a_record_says_on_what_with_what_and_when(benchmark: Any, tmp_path: Path) -> None:
    report = benchmark("report")
    args = report.options(None).parse_args(["--results", str(tmp_path)])
    report.write("some", torch.device("cpu"), args, rows=[1])
    (file,) = tmp_path.iterdir()
    record = json.loads(file.read_text())
    assert file.name == "some_cpu.json"
    assert record.keys() == {"date", "command", "hardware", "versions", "options", "rows"}
    assert record["versions"].keys() == {"python", "torch", "timm", "lightning", "pcvpt"}
    assert record["hardware"]["cpu"]
    assert record["hardware"]["threads"] == torch.get_num_threads()


def test_the_pages_say_what_the_results_say(benchmark: Any) -> None:
    benchmark("tables").main(["--check"])


def test_every_block_is_on_a_page(benchmark: Any) -> None:
    tables = benchmark("tables")
    there = [
        name for page in tables.PAGES for _, name, _ in tables._BLOCK.findall(page.read_text())
    ]
    assert sorted(there) == sorted(tables.blocks(tables.RESULTS))


def test_a_stale_page_fails_the_check_and_is_written_anew(benchmark: Any, tmp_path: Path) -> None:
    tables, page = benchmark("tables"), tmp_path / "page.md"
    page.write_text("before\n<!-- measured: step -->\n| 1 |\n<!-- end -->\nafter\n")
    options = ["--results", str(tmp_path), "--pages", str(page)]
    with pytest.raises(SystemExit, match=r"page\.md"):
        tables.main(["--check", *options])
    assert "| 1 |" in page.read_text()
    tables.main(options)
    assert page.read_text() == (
        "before\n<!-- measured: step -->\n*Not measured yet:* `python benchmarks/step.py`\n"
        "<!-- end -->\nafter\n"
    )
    tables.main(["--check", *options])


def test_goals_compare_with_the_faster_of_the_published_forms(benchmark: Any) -> None:
    sides = {
        "release": {"seconds": [5.0, 6.0], "held_per_image": 10},
        "unfused": {"seconds": [4.0, 4.0]},
        "prefix": {"seconds": [2.0, 2.0], "held_per_image": 4},
    }
    row = {"backbone": "vit_base_patch16_224", "prompts": 200, "batch": 8, "sides": sides}
    plain = {**row, "precision": "float32", "compiled": False}
    other = {**plain, "precision": "bf16", "sides": {}}
    assert benchmark("goals").goals({"step_cpu": {"rows": [plain, other]}}) == [
        (
            "training step, ViT-B/16, 200 prompts, batch 8: published form / ours",
            "at least 2.2",
            "2.00 (2.00 to 2.00)",
        ),
        (
            "held for backward for each image, ViT-B/16, 200 prompts: ours / published form",
            "at most 0.6",
            "0.40",
        ),
    ]


RUNS: dict[str, tuple[str, ...]] = {
    "step": (
        *("--backbones", "vit_tiny_patch16_224", "--image_size", "32", "--prompts", "0", "3"),
        *("--every_side_at", "0", "3", "--repeats", "2", "--batch", "2"),
    ),
    "inference": (*TINY, "--batches", "1", "2", "--repeats", "2"),
    "scoring": (*TINY, "--images", "4", "--batch", "2", "--repeats", "2"),
    "fit": (*TINY, "--images", "8", "--batch", "4", "--repeats", "1", "--epochs", "1"),
    "parity": (
        *("--backbones", "vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224"),
        *("--image_size", "32", "--prompts", "2"),
    ),
    "sizes": (*TINY, "--classes", "5"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_runs_and_its_figures_reach_the_page(
    benchmark: Any, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark(name).main([*RUNS[name], "--device", "cpu", "--results", str(tmp_path)])
    assert "thread" in capsys.readouterr().out
    record = json.loads((tmp_path / f"{name}_cpu.json").read_text())
    text = benchmark("tables").blocks(tmp_path)[name]
    assert record["date"] in text
    assert "Not measured" not in text
    if name == "sizes":
        (row,) = record["rows"]
        assert row["kept"] == round(0.3 * 12 * 3)
        head_and_kept = 4 * (5 * 193 + row["kept"] * 192)
        assert head_and_kept < row["adapter"] < head_and_kept + 3000
        assert row["adapter"] < row["finetune_last"] < row["whole"]
    if name in ("step", "inference", "scoring"):
        for row in record["rows"]:
            assert row["peak_macs_per_s"] > 1e8
            for side in row["sides"].values():
                assert side["macs"] > 1e6
                assert len(side["seconds"]) == 2
                assert min(side["seconds"]) > 0


def test_a_step_benchmark_has_the_sides_asked_for(benchmark: Any, tmp_path: Path) -> None:
    options = ["--backbones", "vit_tiny_patch16_224", "--image_size", "32", "--prompts", "2"]
    options += ["--every_side_at", "--repeats", "1", "--batch", "2", "--precision", "bf16"]
    benchmark("step").main([*options, "--device", "cpu", "--results", str(tmp_path)])
    (row,) = json.loads((tmp_path / "step_cpu.json").read_text())["rows"]
    assert list(row["sides"]) == ["release", "prefix"]
    assert row["precision"] == "bf16"
    held = {name: side["held_per_image"] for name, side in row["sides"].items()}
    assert 0 < held["prefix"] < held["release"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_sides(benchmark: Any, tmp_path: Path) -> None:
    common = ["--device", "cpu", "--results", str(tmp_path), "--repeats", "1"]
    options = ["--backbones", "vit_tiny_patch16_224", "--image_size", "32", "--prompts", "2"]
    sides = ["--sides", "release", "prefix", "--batch", "2", "--every_side_at", "2"]
    benchmark("step").main([*options, *sides, *common, "--compile"])
    rows = json.loads((tmp_path / "step_cpu.json").read_text())["rows"]
    assert [row["compiled"] for row in rows] == [False, True]
    benchmark("inference").main([*TINY, *common, "--batches", "1", "--sides", "timm", "--aot"])
    (row,) = json.loads((tmp_path / "inference_cpu.json").read_text())["rows"]
    assert list(row["sides"]) == ["timm", "AOTInductor"]


@pytest.mark.slow
def test_a_whole_task_is_divided_into_its_parts(benchmark: Any, tmp_path: Path) -> None:
    images = ["--train", "8", "--val", "4", "--test", "6"]
    options = ["--model.backbone=vit_tiny_patch16_224", "--model.image_size=32"]
    options += ["--data.batch_size=4", "--data.num_workers=0"]
    benchmark("task").main([*images, "--device", "cpu", "--results", str(tmp_path), *options])
    record = json.loads((tmp_path / "task_cpu.json").read_text())
    assert sum(record["parts"].values()) == pytest.approx(sum(record["seconds"].values()))
    assert all(part > 0 for part in record["parts"].values())
    assert record["projected"]["vtab_s"] > 95 * record["projected"]["task_s"]  # DTD's test is short
    assert record["floor_s"] < sum(record["seconds"].values())
    assert "Projected" in benchmark("tables").blocks(tmp_path)["task"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("data", ("--images", "12", "--epochs", "1")),
        (
            "allocation",
            ("--backbone=vit_tiny_patch16_224", "--batch=2", "--repeats=1", "--steps=1"),
        ),
    ],
)
def test_the_benchmarks_without_a_page_run(
    benchmark: Any, name: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    benchmark(name).main([*options, "--device", "cpu", "--results", str(tmp_path)])
    assert json.loads((tmp_path / f"{name}_cpu.json").read_text())["hardware"]["cpu"]


def test_parts_of_a_profile_do_not_overlap(benchmark: Any, tmp_path: Path) -> None:
    task = benchmark("task")
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
    ran = task.Ran(110.0, 10.0, [fitted, tested], {}, tmp_path)
    assert task.parts(ran) == {
        "data": 6.0,
        "forward": 30.0,
        "backward": 40.0,
        "optimizer": 5.0,
        "evaluation": 10.0,
        "condensing": 7.0,
        "rest": 22.0,
    }


def test_a_short_run_is_projected_to_full_length(benchmark: Any, tmp_path: Path) -> None:
    task = benchmark("task")
    args = task.argparse.Namespace(
        task="dtd", train=400, val=100, test=10, prompt_epochs=2, finetune_epochs=1
    )
    phases = {"seconds_prompt": 6.0, "seconds_finetune": 2.0, "seconds_condense": 1.0}
    tested = {"[Strategy]SingleDeviceStrategy.test_step": [5.0, 2]}
    ran = task.Ran(19.0, 8.0, [{}, tested], phases, tmp_path)
    found = task.projected(args, ran, tested)
    # Twice the images; 3 s for each epoch of prompts, 2 s for one of fine-tuning; once: 10 s.
    fit = 10 + 2 * (100 * 3 + 20 * 2 + 1)
    assert found["task_s"] == pytest.approx(fit + 3 + 0.5 * 1880)
    tests = sum(row.test for row in task.TASKS.values() if row.suite == "vtab")
    assert found["vtab_s"] == pytest.approx(5 * (19 * (fit + 3) + 0.5 * tests))


def test_a_vtab_task_of_noise_is_read_as_one(benchmark: Any, tmp_path: Path) -> None:
    from pcvpt.data import DTD

    counts = {"train800": 5, "val200": 2, "test": 3}
    benchmark("synthetic").write_vtab(tmp_path / "dtd", 47, counts, (40, 30))
    splits = DTD(str(tmp_path), split="train800val200").splits
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [7, 2, 3]
    assert [item.label for item in splits.train] == [0, 1, 2, 3, 4, 0, 1]


def test_the_benchmark_of_the_board_measures_both_tasks(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspector = benchmark("inspector")
    monkeypatch.setitem(inspector.TASKS, "demo", (inspector.tuner_and_noise, 5))  # not so long
    options = [*TINY, "--images", "8", "--batch", "4", "--repeats", "1"]
    options += ["--prompt_epochs", "1", "--finetune_epochs", "1", "--device", "cpu"]
    inspector.main([*options, "--results", str(tmp_path)])
    rows = json.loads((tmp_path / "inspector_cpu.json").read_text())["rows"]
    assert [row["task"] for row in rows] == ["demo", "vit"]
    for row in rows:
        (inside,) = row["inside"]
        assert all(seconds > 0 for seconds in inside.values())
        for side in row["sides"].values():
            assert min(side["seconds"] + side["processor_seconds"]) > 0
        (spent,) = row["sides"]["with"]["processor_seconds"]
        assert sum(inside.values()) < spent
