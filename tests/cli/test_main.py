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
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcvpt import create_model
from pcvpt.cli.main import main
from pcvpt.data import DemoDataModule, InputSpec, eval_transform

SMALL = (
    *("--trainer.accelerator=cpu", "--trainer.limit_train_batches=3"),
    "--trainer.check_val_every_n_epoch=1",
    *("--trainer.limit_val_batches=2", "--trainer.num_sanity_val_steps=0"),
    *("--trainer.log_every_n_steps=1", "--data.batch_size=32"),
    *("--condense.prompt_epochs=1", "--condense.finetune_epochs=1"),
)
SPEC = InputSpec((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit the demo for 1 + 1 short epochs; return the folder of its runs."""
    folder = tmp_path_factory.mktemp("finished")
    main(["fit", "--config", "demo.yaml", *SMALL, "--output_dir", str(folder)])
    return folder / "demo"


@pytest.fixture
def runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run that a test may write to, and an empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Path(shutil.copytree(finished, tmp_path / "runs" / "demo"))


def _by_hand(run: Path, images: list[Image.Image]) -> torch.Tensor:
    """Return the class probabilities of ``images`` under the condensed best of ``run``."""
    saved = torch.load(run / "checkpoints" / "finetune-best.ckpt", weights_only=True)
    model = create_model("vit_demo_patch8_32", 10, 20).eval()
    state = {k.removeprefix("model."): v for k, v in saved["state_dict"].items() if k != "phase"}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    assert sum(model.prompts.counts()) == 36
    transform = eval_transform(SPEC, "squash")
    with torch.no_grad():
        return model(torch.stack([transform(image) for image in images])).softmax(1)


def _of_split(split: str, count: int) -> tuple[list[Image.Image], torch.Tensor]:
    items = getattr(DemoDataModule().splits, split)[:count]
    images = [Image.fromarray(item.source).convert("RGB") for item in items]
    return images, torch.tensor([item.label for item in items])


def _fails(arguments: list[str], capsys: Capture, lines: int = 1) -> str:
    """Return the ``lines`` on stderr with which the command ends, one unless a list follows."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "Seed set" not in line]
    assert len(said) == lines, said
    assert said[0].startswith("pcvpt: error: ")
    return "\n".join(said)


def test_a_run_folder_holds_the_whole_configuration(finished: Path) -> None:
    config = yaml.safe_load((finished / "version_0" / "config.yaml").read_text())
    assert config["model"]["backbone"] == "vit_demo_patch8_32"
    assert config["condense"]["keep"] == 0.3
    assert config["condense"]["prompt_epochs"] == 1
    assert config["seed_everything"] == 42
    assert config["trainer"]["callbacks"][0]["class_path"] == "pcvpt.callbacks.PhaseProgressBar"
    results = json.loads((finished / "version_0" / "results.json").read_text())
    assert sum(results["kept"]) == 36


def test_the_board_of_a_run_has_curves_and_pictures(finished: Path) -> None:
    board = EventAccumulator(str(finished / "version_0"), size_guidance={"scalars": 0})
    board.Reload()
    scalars = set(board.Tags()["scalars"])
    assert scalars >= {
        *("train/loss", "train/accuracy", "val/loss", "val/accuracy", "phase", "learning_rate"),
        *("condense/accuracy_before", "condense/accuracy_masked", "condense/accuracy_finetuned"),
    }
    assert [event.value for event in board.Scalars("phase")] == [0, 1]
    assert "prompts/kept" in board.Tags()["images"]
    assert "scores/block_00" in board.Tags()["histograms"]


def test_each_start_has_a_folder_of_its_own_and_its_config_runs_again(
    runs: Path, capsys: Capture
) -> None:
    main(["fit", "--config", str(runs / "version_0" / "config.yaml"), "--name", "demo",
          "--output_dir", str(runs.parent)])  # fmt: skip
    said = capsys.readouterr().out
    for row in "all prompts trained", "condensed", "fine-tuned", "prompts kept: 36 of 120":
        assert row in said
    assert str(runs / "version_1") in said
    first, second = (
        torch.load(runs / f"version_{n}" / "checkpoints" / "finetune-last.ckpt", weights_only=True)
        for n in (0, 1)
    )
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name])


def test_a_name_and_several_configs_name_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config=demo.yaml", "--config=vpt.yaml", *SMALL, "--condense.prompt_epochs=1"])
    assert (tmp_path / "runs" / "demo_vpt" / "version_0" / "config.yaml").is_file()
    assert "condensed" not in capsys.readouterr().out


def test_a_finished_run_is_tested_by_its_folder(runs: Path, capsys: Capture) -> None:
    main(["test", str(runs), "--trainer.limit_test_batches=3"])
    figures = json.loads((runs / "version_0" / "test-finetune-best.json").read_text())
    assert "finetune-best.ckpt" in capsys.readouterr().out
    images, labels = _of_split("test", 96)
    hits = _by_hand(runs / "version_0", images).argmax(1) == labels
    assert figures["checkpoint"] == "finetune-best.ckpt"
    assert figures["test/accuracy"] == pytest.approx(float(hits.float().mean()), abs=1e-6)
    classes = torch.stack([hits[labels == label].float().mean() for label in labels.unique()])
    assert figures["test/accuracy_per_class"] == pytest.approx(float(classes.mean()), abs=1e-6)


def test_a_finished_run_is_validated_by_its_folder(runs: Path, capsys: Capture) -> None:
    main(["validate", str(runs / "version_0"), "--trainer.limit_val_batches=1.0"])
    said = capsys.readouterr().out
    images, labels = _of_split("val", 200)
    accuracy = float((_by_hand(runs / "version_0", images).argmax(1) == labels).float().mean())
    (line,) = [line for line in said.splitlines() if " val/accuracy " in line]
    assert float(line.split("│")[2]) == pytest.approx(accuracy, abs=1e-6)


def test_predictions_of_a_folder_are_a_table_of_images_and_class_names(
    runs: Path, tmp_path: Path
) -> None:
    images, _ = _of_split("test", 5)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images):
        image.save(tmp_path / "photos" / f"{number}.png")
    main(["predict", str(runs), "--data.predict_images", str(tmp_path / "photos")])
    with Path("predictions.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "class", "probability"]
    probabilities = _by_hand(runs / "version_0", images)
    assert [Path(row[0]).name for row in rows] == [f"{number}.png" for number in range(5)]
    assert [row[1] for row in rows] == [
        DemoDataModule.CLASS_NAMES[k] for k in probabilities.argmax(1)
    ]
    values = [float(row[2]) for row in rows]
    assert values == pytest.approx(probabilities.amax(1).tolist(), abs=1e-5)
    assert all(0 <= value <= 1 for value in values)


def test_the_newest_run_of_several_is_taken(runs: Path, capsys: Capture) -> None:
    for number in 2, 10:
        shutil.copytree(runs / "version_0", runs / f"version_{number}")
    main(["test", str(runs), "--trainer.limit_test_batches=1"])
    assert str(runs / "version_10" / "checkpoints") in capsys.readouterr().out
    assert (runs / "version_10" / "test-finetune-best.json").is_file()


def test_another_checkpoint_than_the_best_may_be_tested(runs: Path, capsys: Capture) -> None:
    run = runs / "version_0"
    masked = run / "checkpoints" / "masked.ckpt"
    main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(masked),
          "--trainer.logger=false", "--trainer.limit_test_batches=1"])  # fmt: skip
    assert json.loads((run / "test-masked.json").read_text())["checkpoint"] == "masked.ckpt"


def test_a_run_that_stopped_before_condensing_gives_the_best_of_prompt_training(
    runs: Path, capsys: Capture
) -> None:
    for path in (runs / "version_0" / "checkpoints").glob("[fm]*.ckpt"):
        path.unlink()
    main(["test", str(runs), "--trainer.limit_test_batches=1"])
    assert "prompt-best.ckpt" in capsys.readouterr().out


def test_a_stopped_run_is_resumed_from_its_last_checkpoint(runs: Path, capsys: Capture) -> None:
    run = runs / "version_0"
    main(["fit", "--config", str(run / "config.yaml"), "--name=again",
          "--output_dir", str(runs.parent),
          "--ckpt_path", str(run / "checkpoints" / "prompt-last.ckpt")])  # fmt: skip
    first, second = (
        torch.load(folder / "checkpoints" / "finetune-last.ckpt", weights_only=True)["state_dict"]
        for folder in (run, runs.parent / "again" / "version_0")
    )
    for name, value in first.items():
        assert torch.equal(value, second[name])


@pytest.fixture(scope="module")
def finished_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit the demo for one short epoch, and one for each of two budgets; return its folder."""
    folder = tmp_path_factory.mktemp("list")
    keep = ["--condense.keep=[0.1,0.3,0.5]", "--condense.finetune_keep=[0.3,0.1]"]
    main(["fit", "--config", "demo.yaml", *SMALL, *keep, "--output_dir", str(folder)])
    return folder / "demo" / "version_0"


@pytest.fixture
def list_run(finished_list: Path, tmp_path: Path) -> Path:
    """A copy of the finished run of several budgets that a test may write to."""
    return Path(shutil.copytree(finished_list, tmp_path / "list"))


def test_a_list_of_budgets_is_run_from_one_prompt_training(finished_list: Path) -> None:
    config = yaml.safe_load((finished_list / "config.yaml").read_text())
    assert config["condense"]["keep"] == [0.1, 0.3, 0.5]
    results = json.loads((finished_list / "results.json").read_text())
    assert [entry["prompts_kept"] for entry in results["budgets"]] == [12, 36, 60]
    assert ["accuracy_finetuned" in entry for entry in results["budgets"]] == [True, True, False]
    board = EventAccumulator(str(finished_list), size_guidance={"scalars": 0})
    board.Reload()
    steps = [event.step for event in board.Scalars("condense/accuracy_masked_by_prompts")]
    assert steps == [12, 36, 60]


def test_a_run_of_several_budgets_says_what_there_is_to_choose_from(
    list_run: Path, capsys: Capture
) -> None:
    said = _fails(["test", str(list_run)], capsys)
    assert str(list_run) in said
    assert "--ckpt_path" in said
    names = "finetune_0.1-best, finetune_0.3-best, masked_0.1, masked_0.3, masked_0.5, prompt-best"
    assert said.endswith(names)
    (list_run / "checkpoints" / "finetune_0.1-best.ckpt").unlink()
    assert "finetune_0.1-last" in _fails(["predict", str(list_run)], capsys)


def test_each_of_several_budgets_is_tested_by_its_checkpoint(list_run: Path) -> None:
    for name in "finetune_0.3-best", "masked_0.5":
        checkpoint = list_run / "checkpoints" / f"{name}.ckpt"
        options = ["--trainer.limit_test_batches=1", "--ckpt_path", str(checkpoint)]
        main(["test", str(list_run), *options])
        figures = json.loads((list_run / f"test-{name}.json").read_text())
        assert figures["checkpoint"] == f"{name}.ckpt"


def test_the_only_one_of_several_budgets_that_was_fine_tuned_stands_for_the_run(
    list_run: Path,
) -> None:
    for path in list_run.glob("checkpoints/finetune_0.1-*"):
        path.unlink()
    main(["test", str(list_run), "--trainer.limit_test_batches=1"])
    assert (list_run / "test-finetune_0.3-best.json").is_file()


def _no_checkpoint(run: Path) -> list[str]:
    shutil.rmtree(run / "checkpoints")
    return ["test", str(run)]


def _foreign(run: Path) -> list[str]:
    torch.save({"weight": torch.zeros(3)}, run / "foreign.ckpt")
    return [*_with_config(run), "--ckpt_path", str(run / "foreign.ckpt")]


def _text(run: Path) -> list[str]:
    (run / "text.ckpt").write_text("this is no checkpoint")
    return [*_with_config(run), "--ckpt_path", str(run / "text.ckpt")]


def _with_config(run: Path) -> list[str]:
    return ["test", "--config", str(run / "config.yaml"), "--trainer.logger=false"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (lambda run: ["test", str(run / "nothing")], "nothing: no finished run"),
        (_no_checkpoint, "no checkpoint here yet"),
        (lambda run: ["test", "--config", "demo.yaml"], "`pcvpt test` needs a trained model"),
        (lambda run: ["predict", "--config", "demo.yaml"], "`pcvpt predict` needs a trained"),
        (lambda run: [*_with_config(run), "--ckpt_path", str(run / "gone.ckpt")], "gone.ckpt"),
        (_foreign, "foreign.ckpt"),
        (_text, "text.ckpt"),
        (lambda run: ["test", str(run), "--model.num_prompts=7"], "num_prompts=7"),
        (
            lambda run: ["predict", str(run), "--data.predict_images", str(run / "nowhere")],
            "nowhere",
        ),
    ],
    ids=[
        *("missing folder", "no checkpoint", "untrained test", "untrained predict"),
        *("missing file", "foreign file", "text file", "other prompts", "missing images"),
    ],
)
def test_a_wrong_run_is_refused_with_one_line(
    arguments: Callable[[Path], list[str]], named: str, runs: Path, capsys: Capture
) -> None:
    assert named in _fails(arguments(runs / "version_0"), capsys)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--trainer.max_epochs=3"], "trainer.max_epochs=3"),
        (["--condense.keep=0"], "keep=0"),
        (["--condense.keep=1.5"], "keep=1.5"),
        (["--condense.finetune_epochs=0"], "condense.finetune_epochs=0"),
        (["--condense.keep=[]"], "condense.keep=[]"),
        (["--condense.keep=[0.3,0.3]"], "twice"),
        (["--condense.keep=[0.3,2]"], "keep=2"),
        (["--condense.finetune_keep=[0.1]"], "condense.finetune_keep=[0.1]"),
        (["--condense.count=5"], "count=5"),
        (["--condense.score=gats"], "score"),
        (["--condense.kept=0.3"], "kept"),
        (["--model.num_prompts=0"], "num_prompts=0"),
        (["--model.num_prompts=many"], "num_prompts"),
        (["--model.backbone=vit_demo_patch8_23"], "vit_demo_patch8_32"),
        (["--data.batch_size=0"], "batch_size is 0"),
        (["--data.batch_size=2000"], "batch_size 2000"),
        (["--data=pcvpt.data.DemoTusk"], "DemoTusk"),
        (["--unknown=1"], "unknown"),
        (["--config=nothing.yaml"], "nothing.yaml"),
    ],
    ids=lambda value: value[0][2:] if isinstance(value, list) else "",
)
def test_a_wrong_option_is_refused_with_one_line(
    options: list[str], named: str, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ["fit", "--config", "demo.yaml", *SMALL, "--output_dir", str(tmp_path), *options]
    assert named in _fails(arguments, capsys)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {num_promts: 3}", "num_promts"),
        ("condens: {keep: 0.1}", "condens"),
        ("data: {init_args: {batchsize: 3}}", "batchsize"),
        ("model: {num_prompts: 3", "own.yaml"),
        ("trainer: {max_epochs: 3}", "trainer.max_epochs=3"),
    ],
)
def test_a_wrong_file_is_refused_with_one_line(
    text: str, named: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    arguments = ["fit", "--config", "demo.yaml", "--config", str(tmp_path / "own.yaml")]
    assert named in _fails(arguments, capsys)


def test_without_a_config_the_shipped_ones_are_named(capsys: Capture) -> None:
    assert "demo.yaml" in _fails(["fit", "--condense.keep=0.1"], capsys)


def test_an_unknown_subcommand_is_refused_with_one_line(capsys: Capture) -> None:
    assert "fitt" in _fails(["fitt", "--config", "demo.yaml"], capsys)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_shows_how_to_begin(arguments: list[str], capsys: Capture) -> None:
    main(arguments)
    assert "pcvpt fit --config demo.yaml" in capsys.readouterr().out


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Folders of own images of three colours, 8 for training and 3 for test of each."""
    root = tmp_path / "animals"
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("ant", "bee", "cat")):
        for split, count in ("train", 8), ("test", 3):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
                pixels[:, :, channel] += 150
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def _own(animals: Path) -> Path:
    config = animals.parent / "my.yaml"
    recipe: dict[str, Any] = {"base_lr": 2.0, "warmup_epochs": 1}
    sections = {
        "model": {"backbone": "vit_demo_patch8_32", "prompt": recipe, "finetune": recipe},
        "data": {
            "class_path": "pcvpt.data.ImageFolderDataModule",
            "init_args": {"root": str(animals), "batch_size": 6, "num_workers": 0},
        },
        "condense": {"prompt_epochs": 3, "finetune_epochs": 2},
    }
    config.write_text(yaml.safe_dump(sections))
    return config


def test_own_images_are_learnt_tested_and_predicted(
    animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _own(animals)
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", "my.yaml", "--trainer.accelerator=cpu"])
    run = tmp_path / "runs" / "my"
    main(["test", str(run)])
    figures = json.loads((run / "version_0" / "test-finetune-best.json").read_text())
    assert figures["test/accuracy"] == 1.0
    main(["predict", str(run), "--predictions", "out/mine.csv"])
    with Path("out/mine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["ant"] * 3 + ["bee"] * 3 + ["cat"] * 3
    assert [Path(row["image"]).parent.name for row in rows] == [row["class"] for row in rows]


def test_an_image_that_cannot_be_decoded_is_named_before_training(
    animals: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (animals / "train" / "bee" / "3.png").write_bytes(b"no image")
    monkeypatch.chdir(animals.parent)
    _own(animals)
    assert "bee/3.png" in _fails(["fit", "--config", "my.yaml"], capsys, lines=2)


def test_a_missing_folder_of_images_is_named(
    animals: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _own(animals)
    shutil.rmtree(animals)
    monkeypatch.chdir(animals.parent)
    assert str(animals) in _fails(["fit", "--config", str(config)], capsys)


def test_a_run_on_other_classes_is_refused_by_their_numbers(
    animals: Path, runs: Path, capsys: Capture
) -> None:
    best = runs / "version_0" / "checkpoints" / "finetune-best.ckpt"
    arguments = ["test", "--config", str(_own(animals)), "--model.num_prompts=20"]
    said = _fails([*arguments, "--ckpt_path", str(best), "--trainer.logger=false"], capsys)
    assert "10 there, 3 in the data" in said
