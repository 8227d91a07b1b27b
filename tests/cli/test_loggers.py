"""A run has one folder, made by the command, and its numbers and pictures, whatever its loggers."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcvpt.cli.config_errors import parse
from pcvpt.cli.config_files import expand
from pcvpt.cli.loggers import check_names
from pcvpt.cli.run import resolve
from pcvpt.errors import UsageError

from .conftest import PRUNED, SMALL, Command, Refusal

TINY = ("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--data.batch_size=8")
FIT = ("fit", "--config=demo.yaml", *PRUNED, *SMALL, *TINY, "--output_dir=out", "--name=tiny")
RUN = Path("out/tiny/version_0")
FILES = ("config.yaml", "environment.json", "metrics.csv", "results.json", "adapter.safetensors")
NUMBERS = {
    *("train/loss", "val/accuracy", "learning_rate", "prompts/kept_per_block"),
    *("prompt_norm/block_00", "condense/accuracy_masked", "condense/accuracy_finetuned"),
}
PICTURES = {"prompts/kept", "prompts/scores"}
slow = pytest.mark.slow


def _in_tensorboard() -> None:
    board = EventAccumulator(str(RUN), size_guidance={"scalars": 0}).Reload()
    assert set(board.Tags()["scalars"]) >= NUMBERS
    assert set(board.Tags()["images"]) >= PICTURES
    steps = [event.step for event in board.Scalars("train/loss")]
    assert steps == sorted(set(steps))


def _in_tables() -> None:
    for start in 0, 1:
        folder = RUN / "csv" / f"version_{start}"
        with (folder / "metrics.csv").open() as file:
            numbers = {name for row in csv.DictReader(file) for name, cell in row.items() if cell}
        assert numbers >= (NUMBERS if start == 0 else NUMBERS - {"prompts/kept_per_block"})
        assert yaml.safe_load((folder / "hparams.yaml").read_text())["num_prompts"] == 20


def _in_wandb() -> None:
    import wandb

    run = wandb.run
    assert run is not None
    assert set(run.summary.keys()) >= NUMBERS | PICTURES - {"prompts/kept_per_block"}
    assert run.config["num_prompts"] == 20
    assert run.name == "tiny/version_0"
    starts = list(RUN.glob("wandb/offline-run-*"))
    assert len(starts) == 2
    assert {folder.name.rpartition("-")[2] for folder in starts} == {run.id}
    for picture in PICTURES:
        assert list(RUN.glob(f"wandb/offline-run-*/files/media/images/{picture}_*.png"))


def _in_mlflow() -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{RUN.parents[1].absolute()}/mlflow.db")
    experiment = client.get_experiment_by_name("lightning_logs")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics.keys() >= NUMBERS
    assert run.data.params["num_prompts"] == "20"
    assert run.info.run_name == "tiny/version_0"
    images = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    for picture in PICTURES:
        assert any(re.search(picture.replace("/", "."), image) for image in images)


def _nowhere() -> None:
    assert not list(Path().rglob("*tfevents*"))


KINDS: dict[str, tuple[Any, tuple[Callable[[], None], ...]]] = {
    "false": ("false", (_nowhere,)),
    "true": ("true", (_in_tensorboard,)),
    "csv": ("CSVLogger", (_in_tables,)),
    "several": (
        '[{"class_path": "TensorBoardLogger"}, "CSVLogger"]',
        (_in_tensorboard, _in_tables),
    ),
    "wandb": ("WandbLogger", (_in_wandb,)),
    "mlflow": ("MLFlowLogger", (_in_mlflow,)),
}


@pytest.fixture
def kind(
    request: pytest.FixtureRequest, work: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    name: str = request.param
    if name not in ("wandb", "mlflow"):
        yield name
        return
    module = pytest.importorskip(name, reason=f"the extra `{name}` is not installed")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for variable, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{variable}", value)
    for variable in "DATA_DIR", "CACHE_DIR", "CONFIG_DIR":
        monkeypatch.setenv(f"WANDB_{variable}", str(work / ".wandb"))
    yield name
    if name == "wandb":
        module.finish()


def _cut_off() -> None:
    """Make the finished run one that was cut off before its fine-tuning."""
    for path in (RUN / "results.json", *RUN.glob("checkpoints/finetune*"), *RUN.glob("adapter*")):
        path.unlink()


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[slow] * (kind in ("true", "csv"))) for kind in KINDS],
    indirect=True,
)
def test_a_run_is_in_its_folder_resumed_and_tested_with_any_logger(
    kind: str, command: Command
) -> None:
    logger, checks = KINDS[kind]
    fit = (*FIT, f"--trainer.logger={logger}")
    ended = command(*fit)
    assert ended.status == 0, ended.output
    _cut_off()
    if kind == "wandb":
        __import__("wandb").finish()  # as the end of the process does
    ended = command(*fit, "--resume")
    assert ended.status == 0, ended.output
    for name in FILES:
        assert (RUN / name).is_file()
    assert [path.name for path in Path().iterdir() if path.name[0] != "."] == ["out"]
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]
    assert len(json.loads((RUN / "environment.json").read_text())["starts"]) == 2
    assert [row["phase"] for row in csv.DictReader((RUN / "metrics.csv").open())] == [
        "prompt",
        "finetune",
    ]
    for check in checks:
        check()
    ended = command("test", RUN.parent)
    assert ended.status == 0, ended.output
    assert f"Using {RUN}/checkpoints/finetune-best.ckpt" in ended.output
    assert "test accuracy" in ended.output
    assert [path.name for path in RUN.parent.iterdir()] == [RUN.name]


@pytest.mark.parametrize(
    ("logger", "told"),
    [
        ("WandbLogger", {"name": "mine", "save_dir": "there", "version": "abc"}),
        ("WandbLogger", {"dir": "there", "id": "abc"}),
        ("MLFlowLogger", {"run_name": "mine", "tracking_uri": "http://server", "run_id": "abc"}),
        ("MLFlowLogger", {"save_dir": "there"}),
    ],
)
def test_what_a_logger_is_told_is_kept(logger: str, told: dict[str, str], work: Path) -> None:
    arguments = [f"--trainer.logger.{key}={value}" for key, value in told.items()]
    files, _ = expand(["--config=demo.yaml"])
    run = resolve("fit", parse("fit", [*files, f"--trainer.logger={logger}", *arguments]))
    (placed,) = run.loggers
    assert {key: placed.init_args[key] for key in told} == told
    assert placed.init_args.get("save_dir", "there") in ("there", str(run.folder))
    assert "mlflow.db" not in str(placed)


KEYS = {  # value that must reach the logger; None where another one than the default is refused
    **dict.fromkeys(("save_dir", "name", "version", "log_graph", "default_hp_metric")),
    **{"prefix": "mine", "sub_dir": "deeper", "flush_logs_every_n_steps": 7},
}


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_each_key_of_a_logger_acts_or_is_refused(kind: type, work: Path) -> None:
    parameters = signature(kind).parameters
    assert parameters.keys() - {"kwargs"} <= KEYS.keys()
    files, _ = expand(["--config=demo.yaml"])
    for key in parameters.keys() - {"kwargs"}:
        value = KEYS[key]
        given = not parameters[key].default if "log_graph" in key or "hp" in key else "other"
        path = f"lightning.pytorch.loggers.{kind.__name__}"
        init = {"save_dir": "runs", key: given if value is None else value}
        logger = json.dumps({"class_path": path, "init_args": init})
        options = parse("fit", [*files, f"--trainer.logger={logger}"])
        if value is None:
            with pytest.raises(UsageError, match=f"trainer.logger.{key}="):
                check_names("fit", options)
        else:
            check_names("fit", options)
            (placed,) = resolve("fit", options).loggers
            assert placed.init_args[key] == value


def test_a_test_with_a_logger_writes_into_the_folder_of_the_run(
    run: Path, command: Command
) -> None:
    before = {path.name for path in run.parent.iterdir()}
    options = "--trainer.limit_test_batches=1", "--trainer.logger=true"
    assert command("test", run, *options).status == 0
    assert {path.name for path in run.parent.iterdir()} == before
    board = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    assert {"test/accuracy", "val/accuracy"} <= set(board.Tags()["scalars"])


def test_two_starts_do_not_share_a_folder(
    work: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    RUN.mkdir(parents=True)
    monkeypatch.setattr("pcvpt.cli.run.next_run", lambda _: RUN)
    assert str(RUN) in refusal(*FIT)
    assert list(RUN.iterdir()) == []


def test_a_logger_whose_package_is_missing_is_told_in_one_line(
    work: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing(WandbLogger):
        def __init__(self, save_dir: str = ".") -> None:
            raise ModuleNotFoundError("Requirement 'wandb' not met")

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", Missing)
    error = refusal(*FIT, "--trainer.logger=lightning.pytorch.loggers.WandbLogger")
    assert error == "lightning.pytorch.loggers.WandbLogger: Requirement 'wandb' not met"
    assert not RUN.exists()


@pytest.mark.parametrize(
    "option",
    [
        "default_root_dir=elsewhere",
        *("logger.name=other", "logger.version=3", "logger.save_dir=elsewhere"),
    ],
)
def test_another_folder_than_that_of_the_run_is_refused_by_name(
    option: str, work: Path, refusal: Refusal
) -> None:
    error = refusal(*FIT, f"--trainer.{option}")
    assert error.startswith(f"trainer.{option}: ")
    assert "out/tiny/version_N" in error
    for remedy in "--output_dir", "--name":
        assert remedy in error
    assert list(work.iterdir()) == []
