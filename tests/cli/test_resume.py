"""``pcvpt fit --resume``, the record of a run, and tests that are not repeated."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcvpt.cli.main import main
from pcvpt.cli.resume import differences
from pcvpt.runs.folder import last_checkpoint, run_to_resume

SMALL = (
    *("--trainer.accelerator=cpu", "--trainer.limit_train_batches=4"),
    *("--trainer.limit_val_batches=2", "--trainer.num_sanity_val_steps=0"),
    *("--trainer.check_val_every_n_epoch=1", "--data.batch_size=16", "--data.num_workers=0"),
    *("--condense.prompt_epochs=2", "--condense.finetune_epochs=1", "--model.num_prompts=4"),
)
Capture = pytest.CaptureFixture[str]


def _fit(folder: Path, *options: str) -> None:
    main(["fit", "--config", "demo.yaml", *SMALL, "--output_dir", str(folder), *options])


def _refused(capsys: Capture, folder: Path, *options: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        _fit(folder, *options)
    assert end.value.code == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("pcvpt: error"))
    return line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    _fit(folder, "--resume")  # with none to go on with, it starts one
    return folder


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def _cut_off(runs: Path) -> Path:
    """Undo the fine-tuning of the finished run, as if it had been cut off before."""
    run = runs / "demo" / "version_0"
    for file in (run / "results.json", *run.glob("checkpoints/finetune*"), *run.glob("adapter*")):
        file.unlink()
    return run


def test_a_finished_run_is_left_as_it_is(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    _fit(runs, "--resume")
    assert "is finished; there is nothing to resume" in caplog.text
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


def test_a_run_that_was_cut_off_goes_on_in_its_own_folder(runs: Path, finished: Path) -> None:
    run = _cut_off(runs)
    config = (run / "config.yaml").read_bytes()
    _fit(runs, "--resume", "--trainer.log_every_n_steps=2")  # which changes no result
    assert [path.name for path in (runs / "demo").iterdir()] == ["version_0"]
    assert (run / "config.yaml").read_bytes() == config
    one, two = (
        torch.load(
            folder / "demo" / "version_0" / "checkpoints" / "finetune-last.ckpt", weights_only=True
        )["state_dict"]
        for folder in (finished, runs)
    )
    for name, value in one.items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(two[name]))


def test_the_table_of_epochs_goes_on_and_each_start_is_noted(runs: Path, finished: Path) -> None:
    def rows(folder: Path) -> list[dict[str, str]]:
        with (folder / "demo" / "version_0" / "metrics.csv").open() as file:
            return list(csv.DictReader(file))

    run = _cut_off(runs)
    assert len(rows(runs)) == 3
    _fit(runs, "--resume")
    assert rows(runs) == rows(finished)
    assert [row["phase"] for row in rows(runs)] == ["prompt", "prompt", "finetune"]
    assert [int(row["epoch"]) for row in rows(runs)] == [0, 1, 2]
    assert all(0 <= float(row["val/accuracy"]) <= 1 for row in rows(runs))
    first, second = json.loads((run / "environment.json").read_text())["starts"]
    assert [first["epochs_before"], second["epochs_before"]] == [0, 2]
    for name in "seed", "data_hash", "global_batch", "devices", "precision":
        assert first[name] == second[name]
    assert first["versions"]["torch"] == torch.__version__
    assert len(first["data_hash"]) == 16
    results = json.loads((run / "results.json").read_text())
    assert results["data"]["hash"] == first["data_hash"]


def test_a_run_does_not_go_on_with_another_configuration(runs: Path, capsys: Capture) -> None:
    _cut_off(runs)
    line = _refused(capsys, runs, "--resume", "--model.num_prompts=5", "--condense.keep=0.5")
    assert "version_0/config.yaml differs" in line
    assert "condense.keep=0.3 (now 0.5); model.num_prompts=4 (now 5)" in line
    assert "start another run: with another --name, or without --resume" in line


def test_a_run_does_not_go_on_with_another_global_batch(runs: Path, capsys: Capture) -> None:
    _cut_off(runs)
    line = _refused(capsys, runs, "--resume", "--data.batch_size=8")
    assert "global_batch=16, now it is 8" in line


def test_a_checkpoint_and_resume_exclude_each_other(runs: Path, capsys: Capture) -> None:
    last = runs / "demo" / "version_0" / "checkpoints" / "prompt-last.ckpt"
    line = _refused(capsys, runs, "--resume", f"--ckpt_path={last}")
    assert "leave out --ckpt_path" in line


def test_a_damaged_last_checkpoint_is_named(runs: Path, capsys: Capture) -> None:
    last = _cut_off(runs) / "checkpoints" / "prompt-last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    line = _refused(capsys, runs, "--resume")
    assert f"{last}: not a readable checkpoint; move it away" in line


def _make(folder: Path, number: int, *files: str) -> Path:
    for file in files:
        path = folder / f"version_{number}" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder / f"version_{number}"


def test_the_run_to_go_on_with_is_the_newest_that_has_begun(tmp_path: Path) -> None:
    assert run_to_resume(tmp_path) is None
    last = "checkpoints/prompt-last.ckpt"
    first = _make(tmp_path, 2, "config.yaml", last)
    assert run_to_resume(tmp_path) == first
    newer = _make(tmp_path, 10, "config.yaml", last)
    assert run_to_resume(tmp_path) == newer
    _make(tmp_path, 11, "config.yaml")  # cut off before its first checkpoint
    assert run_to_resume(tmp_path) == newer
    _make(tmp_path, 10, "results.json")
    assert run_to_resume(tmp_path) is None


def test_the_last_checkpoint_is_that_of_most_steps(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for stage, step in ("finetune_0.5", 30), ("finetune_0.1", 40), ("prompt", 20):
        content = {"pcvpt": {}, "global_step": step}
        torch.save(content, tmp_path / "checkpoints" / f"{stage}-last.ckpt")
    assert last_checkpoint(tmp_path).stem == "finetune_0.1-last"


def test_what_changes_no_result_is_no_difference() -> None:
    saved = {"model": {"num_prompts": 4}, "trainer": {"devices": 1, "precision": None}, "x": {}}
    assert differences(saved, saved) == []
    other = {"model": {"num_prompts": 4}, "trainer": {"devices": 8, "precision": None}, "x": {}}
    assert differences(saved, other) == []
    other["trainer"]["precision"] = "bf16-mixed"
    assert differences(saved, other) == ["trainer.precision=None (now bf16-mixed)"]


def test_a_checkpoint_is_tested_once(runs: Path, capsys: Capture) -> None:
    run = runs / "demo" / "version_0"
    main(["test", str(run)])
    first = json.loads((run / "test-finetune-best.json").read_text())
    assert first["test"] == 1
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["test", str(run)])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"was tested already: {100 * first['test/accuracy']:.2f} %" in said
    main(["test", str(run), "--retest"])
    assert json.loads((run / "test-finetune-best-2.json").read_text())["test"] == 2
    assert json.loads((run / "test-finetune-best.json").read_text()) == first


def test_the_board_shows_no_step_twice(runs: Path) -> None:
    run = _cut_off(runs)
    _fit(runs, "--resume")
    board = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    steps = [event.step for event in board.Scalars("train/loss")]
    assert steps == sorted(set(steps))
    assert len(steps) == 3


def test_a_csv_logger_keeps_its_own_table(tmp_path: Path) -> None:
    logger = "--trainer.logger=lightning.pytorch.loggers.CSVLogger"
    _fit(tmp_path, logger, "--condense.keep=null", "--condense.prompt_epochs=2")
    (table,) = tmp_path.rglob("metrics.csv")
    with table.open() as file:
        assert "val/accuracy" in next(csv.reader(file))
    assert (table.parent / "environment.json").is_file()


def test_a_config_may_name_its_run(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("name: chosen\n")
    _fit(tmp_path, "--config", str(tmp_path / "own.yaml"), "--condense.prompt_epochs=1")
    assert (tmp_path / "chosen" / "version_0" / "results.json").is_file()
