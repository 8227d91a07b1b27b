"""The command from end to end: train, test, validate and predict, on the demo and own images."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.callbacks import RichProgressBar, Timer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcvpt import create_model, load_adapter
from pcvpt.callbacks import RunRecord
from pcvpt.cli.run import callbacks_of
from pcvpt.data import DemoDataModule, InputSpec, eval_transform

from .conftest import SMALL, Command, Refusal, fit_demo, same_weights

SPEC = InputSpec((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
ONE = "--data.batch_size=1000"


def _probabilities(run: Path, images: list[Image.Image]) -> torch.Tensor:
    """Return the class probabilities of ``images`` under the condensed best of ``run``."""
    saved = torch.load(run / "checkpoints" / "finetune-best.ckpt", weights_only=True)
    model = create_model("vit_demo_patch8_32", 10, 20).eval()
    state = {k.removeprefix("model."): v for k, v in saved["state_dict"].items() if k != "phase"}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    assert sum(model.prompts.counts()) == 36
    transform = eval_transform(SPEC, "squash")
    with torch.no_grad():
        return model(torch.stack([transform(image) for image in images])).softmax(1)


def _images(split: str, count: int) -> tuple[list[Image.Image], torch.Tensor]:
    items = getattr(DemoDataModule().splits, split)[:count]
    images = [Image.fromarray(item.source).convert("RGB") for item in items]
    return images, torch.tensor([item.label for item in items])


def _rows(file: str) -> list[dict[str, str]]:
    with Path(file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_run_folder_holds_the_configuration_results_curves_and_pictures(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["backbone"] == "vit_demo_patch8_32"
    assert (config["condense"]["keep"], config["condense"]["prompt_epochs"]) == (0.3, 1)
    assert config["seed_everything"] == 42
    assert config["trainer"]["callbacks"] is None  # those of every run are not listed
    assert sum(json.loads((finished / "results.json").read_text())["kept"]) == 36
    board = EventAccumulator(str(finished), size_guidance={"scalars": 0}).Reload()
    assert set(board.Tags()["scalars"]) >= {
        *("train/loss", "train/accuracy", "val/loss", "val/accuracy", "phase", "learning_rate"),
        *("condense/accuracy_before", "condense/accuracy_masked", "condense/accuracy_finetuned"),
    }
    assert [event.value for event in board.Scalars("phase")] == [0, 1]
    assert "prompts/kept" in board.Tags()["images"]
    assert "scores/block_00" in board.Tags()["histograms"]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["from the start", "from a checkpoint"])
def test_a_saved_config_gives_the_same_weights_in_a_new_folder(
    start: str, run: Path, command: Command
) -> None:
    last = ["--ckpt_path", run / "checkpoints" / "prompt-last.ckpt"]
    options = last if start == "from a checkpoint" else []
    ended = command(
        "fit", "--config", run / "config.yaml", "--name=demo", "--output_dir=runs", *options
    )
    for row in "all prompts trained", "condensed", "fine-tuned", "36 of 120", "version_1":
        assert row in ended.output
    assert same_weights(run, run.with_name("version_1"))


def test_a_finished_run_is_tested_by_its_folder(run: Path, command: Command) -> None:
    ended = command("test", run.parent)
    assert "finetune-best.ckpt" in ended.output
    figures = json.loads((run / "test-finetune-best.json").read_text())
    images, labels = _images("test", 1000)
    hits = _probabilities(run, images).argmax(1) == labels
    assert figures["checkpoint"] == "finetune-best.ckpt"
    assert figures["test/accuracy"] == pytest.approx(float(hits.float().mean()), abs=1e-6)
    classes = torch.stack([hits[labels == label].float().mean() for label in labels.unique()])
    assert figures["test/accuracy_per_class"] == pytest.approx(float(classes.mean()), abs=1e-6)


@pytest.mark.parametrize(
    "limit", ["limit_test_batches=1", "limit_test_batches=0.5", "fast_dev_run=true"]
)
def test_a_partial_test_is_not_recorded_and_the_whole_one_follows(
    limit: str, run: Path, command: Command
) -> None:
    output = command("test", run, f"--trainer.{limit}", "--data.batch_size=250").output
    assert f"not recorded: only {2 if '0.5' in limit else 1} of 4 batches of test" in output
    assert "test accuracy" in output
    assert "interval" not in output  # of a part of the images
    assert not list(run.glob("test-*"))
    assert "not recorded" not in command("test", run, "--trainer.limit_test_batches=1", ONE).output
    assert (run / "test-finetune-best.json").is_file()


def test_a_partial_validation_and_partial_predictions_are_called_so(
    run: Path, command: Command
) -> None:
    validated = command("validate", run, "--trainer.limit_val_batches=1").output
    assert "only 1 of 7 batches of val" in validated
    predicted = command("predict", run, "--trainer.limit_predict_batches=2")
    assert predicted.output.endswith("Predictions: predictions_partial.csv, only 2 of 32 batches\n")
    assert not Path("predictions.csv").exists()
    assert len(_rows("predictions_partial.csv")) == 64


@pytest.mark.parametrize(
    ("name", "split"),
    [("fit", "val"), ("validate", "val"), ("test", "test"), ("predict", "predict")],
)
def test_a_limit_of_zero_batches_is_refused(
    name: str, split: str, run: Path, refusal: Refusal
) -> None:
    start = ("--config", "demo.yaml") if name == "fit" else (run,)
    limit = f"trainer.limit_{split}_batches=0"
    assert refusal(name, *start, f"--{limit}").startswith(
        f"{limit} leaves no images for `pcvpt {name}`"
    )


def test_a_finished_run_is_validated_by_its_folder(run: Path, command: Command) -> None:
    output = command("validate", run, "--trainer.limit_val_batches=1.0").output
    images, labels = _images("val", 200)
    accuracy = float((_probabilities(run, images).argmax(1) == labels).float().mean())
    assert f"val accuracy {100 * accuracy:.2f} % (95 % interval " in output
    assert "200 images), mean over classes " in output


def test_predictions_are_a_table_of_images_and_class_names(run: Path, command: Command) -> None:
    images, _ = _images("test", 5)
    Path("photos").mkdir()
    for number, image in enumerate(images):
        image.save(f"photos/{number}.png")
    command("predict", run, "--data.predict_images", "photos")
    rows = _rows("predictions.csv")
    assert list(rows[0]) == ["image", "class", "probability"]
    probabilities = _probabilities(run, images)
    assert [Path(row["image"]).name for row in rows] == [f"{number}.png" for number in range(5)]
    names = [DemoDataModule.CLASS_NAMES[k] for k in probabilities.argmax(1)]
    assert [row["class"] for row in rows] == names
    expected = pytest.approx(probabilities.amax(1).tolist(), abs=1e-5)
    assert [float(row["probability"]) for row in rows] == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prune", "merge"])
def test_keys_and_values_are_trained_resumed_tested_predicted_and_loaded(
    method: str, work: Path, command: Command
) -> None:
    options = ("--config=prefix.yaml", f"--condense.method={method}", "--name=own")
    fit_demo(Path("runs"), *options)
    run, whole = work / "runs" / "own" / "version_0", work / "whole"
    shutil.copytree(run, whole)
    for file in run / "results.json", *run.glob("checkpoints/finetune*"), *run.glob("adapter*"):
        file.unlink()  # as if it had been cut off before
    fit_demo(Path("runs"), *options, "--resume")
    assert same_weights(run, whole)
    command("test", run, ONE)
    assert (run / "test-finetune-best.json").is_file()
    images, _ = _images("test", 3)
    Path("photos").mkdir()
    for number, image in enumerate(images):
        image.save(f"photos/{number}.png")
    command("predict", run, "--data.predict_images", "photos")
    model: Any = load_adapter(run / "adapter.safetensors")
    assert (model.mode, model.prompts.form) == ("prefix", "key_value")
    assert (model.prompts.log_weight is None) == (method == "prune")
    with torch.no_grad():
        found = model(torch.stack([model.adapter.preprocessing(image) for image in images]))
    expected = pytest.approx(found.softmax(1).amax(1).tolist(), abs=1e-5)
    assert [float(row["probability"]) for row in _rows("predictions.csv")] == expected


def test_the_newest_of_several_runs_is_tested(run: Path, command: Command) -> None:
    for number in 2, 10:
        shutil.copytree(run, run.with_name(f"version_{number}"))
    for path in run.with_name("version_10").glob("checkpoints/[fm]*.ckpt"):
        path.unlink()  # as if it had stopped after prompt training
    command("test", run.parent, ONE)
    assert (run.with_name("version_10") / "test-prompt-best.json").is_file()


def test_a_given_checkpoint_is_tested(run: Path, command: Command) -> None:
    masked = run / "checkpoints" / "masked.ckpt"
    command("test", *_config(run), "--ckpt_path", masked, ONE)
    assert json.loads((run / "test-masked.json").read_text())["checkpoint"] == "masked.ckpt"


@pytest.mark.slow
def test_several_budgets_are_run_listed_and_tested_one_by_one(
    tmp_path: Path, command: Command, refusal: Refusal
) -> None:
    fit_demo(tmp_path, "--condense.keep=[0.1,0.3,0.5]", "--condense.finetune_keep=[0.3,0.1]")
    run = tmp_path / "demo" / "version_0"
    assert yaml.safe_load((run / "config.yaml").read_text())["condense"]["keep"] == [0.1, 0.3, 0.5]
    budgets = json.loads((run / "results.json").read_text())["budgets"]
    assert [entry["prompts_kept"] for entry in budgets] == [12, 36, 60]
    assert ["accuracy_finetuned" in entry for entry in budgets] == [True, True, False]
    board = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    steps = [event.step for event in board.Scalars("condense/accuracy_masked_by_prompts")]
    assert steps == [12, 36, 60]
    for name in "finetune_0.3-best", "masked_0.5":
        checkpoint = run / "checkpoints" / f"{name}.ckpt"
        command("test", run, ONE, "--ckpt_path", checkpoint)
        figures = json.loads((run / f"test-{name}.json").read_text())
        assert figures["checkpoint"] == f"{name}.ckpt"
    error = refusal("test", run)
    for name in "finetune_0.1-best", "finetune_0.3-best", "masked_0.1", "masked_0.5", "prompt-best":
        assert name in error
    assert str(run) in error
    assert "--ckpt_path" in error


def _config(run: Path) -> list[Any]:
    return ["--config", run / "config.yaml", "--trainer.logger=false"]


def _without_checkpoint(run: Path) -> list[Any]:
    shutil.rmtree(run / "checkpoints")
    return ["test", run]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (lambda run: ["test", run / "nothing"], "nothing"),
        (_without_checkpoint, "no checkpoint"),
        (lambda run: ["test", "--config", "demo.yaml"], "--ckpt_path"),
        (lambda run: ["predict", "--config", "demo.yaml"], "--ckpt_path"),
        (lambda run: ["test", *_config(run), "--ckpt_path", run / "gone.ckpt"], "gone.ckpt"),
        (lambda run: ["test", run, "--model.num_prompts=7"], "num_prompts=7"),
        (lambda run: ["predict", run, "--data.predict_images", run / "nowhere"], "nowhere"),
        (lambda run: ["predict", run, "--predictions", run / "config.yaml"], "--predictions"),
        (lambda run: ["predict", run, "--predictions", run], "is a folder"),
        (lambda run: ["predict", run, "--data.predict_images", "\udce9"], "set PYTHONUTF8=1"),
        (lambda run: ["predict", run, "--predictions", run / "config.yaml" / "a"], "config.yaml/a"),
    ],
)
def test_a_wrong_run_is_refused_in_one_line(
    arguments: Callable[[Path], list[Any]], named: str, run: Path, refusal: Refusal
) -> None:
    assert named in refusal(*arguments(run))


@pytest.mark.parametrize(
    ("arguments", "listed"),
    [
        ("", "pcvpt fit --config demo.yaml"),
        ("-h", "pcvpt fit --config demo.yaml"),
        ("--help", "pcvpt fit --config demo.yaml"),
        ("fit --help", "--condense.keep --model.backbone --trainer.devices --resume --name"),
    ],
)
def test_help_shows_how_to_begin(arguments: str, listed: str, command: Command) -> None:
    ended = command(*arguments.split())
    assert ended.status == 0
    for part in listed.split():
        assert part in ended.output


@pytest.fixture
def animals(work: Path) -> Path:
    """Own images of three colours, 8 for training and 3 for test of each, and my.yaml for them."""
    root = work / "animals"
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("ant", "bee", "cat")):
        for split, count in ("train", 8), ("test", 3):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
                pixels[:, :, channel] += 150
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    recipe = {"base_lr": 2.0, "warmup_epochs": 1}
    data = {"root": str(root), "batch_size": 6, "num_workers": 0}
    config = {
        "model": {"backbone": "vit_demo_patch8_32", "prompt": recipe, "finetune": recipe},
        "data": {"class_path": "pcvpt.data.ImageFolderDataModule", "init_args": data},
        "condense": {"prompt_epochs": 3, "finetune_epochs": 2},
    }
    (work / "my.yaml").write_text(yaml.safe_dump(config))
    return root


@pytest.mark.slow
def test_own_images_are_learnt_tested_and_predicted_by_the_names_in_training(
    animals: Path, command: Command, refusal: Refusal
) -> None:
    command("fit", "--config", "my.yaml", "--trainer.accelerator=cpu")
    for split in "train", "test":
        (animals / split / "ant").rename(animals / split / "zebra")
    for name in "test", "validate":
        assert "classes zebra (" in refusal(name, "runs/my")
    command("predict", "runs/my", "--predictions", "out/mine.csv")
    rows = _rows("out/mine.csv")
    assert [row["class"] for row in rows] == ["bee"] * 3 + ["cat"] * 3 + ["ant"] * 3
    shutil.move(animals / "test" / "cat", "photos")
    for split in "train", "test":
        (animals / split / "zebra").rename(animals / split / "ant")
    shutil.rmtree(animals / "train" / "bee")
    shutil.rmtree(animals / "test" / "bee")
    command("test", "runs/my")
    figures = json.loads(Path("runs/my/version_0/test-finetune-best.json").read_text())
    assert (figures["test/accuracy"], figures["data"]["images"]["test"]) == (1.0, 3)
    shutil.rmtree(animals)
    command("predict", "runs/my", "--data.predict_images", "photos")
    assert [row["class"] for row in _rows("predictions.csv")] == ["cat"] * 3


def test_own_images_that_do_not_fit_are_named(
    animals: Path, finished: Path, command: Command, refusal: Refusal
) -> None:
    best = finished / "checkpoints" / "finetune-best.ckpt"
    options = "--model.num_prompts=20", "--trainer.logger=false"
    error = refusal("test", "--config", "my.yaml", "--ckpt_path", best, *options)
    assert "classes ant, bee, cat (" in error
    assert "lack Ankle boot, Bag, " in error
    (animals / "train" / "bee" / "3.png").write_bytes(b"no image")
    ended = command("fit", "--config", "my.yaml")
    assert ended.status == 2
    assert "bee/3.png" in ended.output


@pytest.mark.parametrize("name", ["fit", "test", "predict"])
def test_a_trial_of_one_step_writes_nothing(name: str, run: Path, command: Command) -> None:
    Path("photos").mkdir()
    _images("test", 1)[0][0].save("photos/one.png")
    before = {path: path.is_file() and path.stat().st_mtime_ns for path in Path().rglob("*")}
    fit = ["--config", "demo.yaml", "--trainer.accelerator=cpu", "--output_dir=new"]
    what = fit if name == "fit" else [run]
    images = {"predict": ["--data.predict_images", "photos"]}.get(name, [])
    ended = command(name, *what, "--trainer.fast_dev_run=true", *images)
    assert ended.status == 0, ended.output
    assert {
        path: path.is_file() and path.stat().st_mtime_ns for path in Path().rglob("*")
    } == before


OWN = {
    *("PhaseProgressBar", "RunRecord", "PhaseCheckpoint", "PromptInspector", "AdapterWriter"),
    "RunSummary",
}
CASES: list[tuple[Any, dict[str, bool], set[str]]] = [  # given, options, and what the Trainer gets
    (None, {}, OWN),
    ([], {}, OWN),
    (Timer(), {}, OWN | {"Timer"}),
    ([Timer(), RunRecord()], {}, OWN | {"Timer"}),
    (RichProgressBar(), {}, OWN - {"PhaseProgressBar"} | {"RichProgressBar"}),
    ([RichProgressBar()], {"enable_progress_bar": False}, OWN - {"PhaseProgressBar"}),
    (None, {"enable_checkpointing": False}, OWN - {"PhaseCheckpoint"}),
]


@pytest.mark.parametrize(("given", "options", "wanted"), CASES)
def test_callbacks_are_added_to_those_of_every_run_or_take_their_place(
    given: Any, options: dict[str, bool], wanted: set[str]
) -> None:
    defaults = {"enable_progress_bar": None, "enable_checkpointing": None}
    found = callbacks_of(Namespace(callbacks=given, **{**defaults, **options}))
    assert len(found) == len(wanted)
    assert {type(callback).__name__ for callback in found} == wanted
    assert all(one in found for one in (given if isinstance(given, list) else []) if options == {})


def test_a_run_with_one_callback_of_the_users_has_results(work: Path, command: Command) -> None:
    (work / "own.yaml").write_text(
        "trainer: {callbacks: {class_path: pcvpt.callbacks.PhaseCheckpoint, "
        "init_args: {every_n_steps: 2}}}"
    )
    options = (*SMALL, "--config=own.yaml", "--output_dir=runs", "--condense.keep=null")
    ended = command("fit", "--config=demo.yaml", *options, "--name=demo")
    assert ended.status == 0, ended.output
    folder = work / "runs" / "demo" / "version_0"
    names = {"results.json", "adapter.safetensors", "metrics.csv", "checkpoints", "config.yaml"}
    assert names <= {path.name for path in folder.iterdir()}


def test_a_callback_that_is_there_twice_is_one_line(work: Path, refusal: Refusal) -> None:
    one = "{class_path: pcvpt.callbacks.PhaseCheckpoint}"
    (work / "own.yaml").write_text(f"trainer: {{callbacks: [{one}, {one}]}}")
    assert "PhaseCheckpoint" in refusal("fit", "--config=demo.yaml", "--config=own.yaml")
