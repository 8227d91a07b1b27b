"""Running the command as a user does, and one finished run of the demo for all."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pcvpt.cli.main import main

PRUNED = ("--condense.method=prune", "--condense.keep=0.3")
SMALL = (
    *("--trainer.accelerator=cpu", "--trainer.limit_train_batches=3"),
    *("--trainer.limit_val_batches=2", "--trainer.num_sanity_val_steps=0"),
    *("--trainer.check_val_every_n_epoch=1", "--trainer.log_every_n_steps=1"),
    *("--data.batch_size=32", "--data.num_workers=0"),
    *("--condense.prompt_epochs=1", "--condense.finetune_epochs=1"),
)
"""Options of a short run of the demo."""


class Ended(NamedTuple):
    """How the command ended: its status, what it printed, and the one line of an error."""

    status: int
    output: str
    error: str


Command = Callable[..., Ended]
Refusal = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``pcvpt`` with arguments."""

    def run(*arguments: Any) -> Ended:
        capsys.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        errors = [line for line in said.err.splitlines() if line.startswith("pcvpt: error: ")]
        error = errors[0].removeprefix("pcvpt: error: ") if errors else ""
        return Ended(status, said.out + said.err, error)

    return run


@pytest.fixture
def refusal(command: Command) -> Refusal:
    """Run ``pcvpt`` with arguments that it refuses in one line; return the error."""

    def run(*arguments: Any) -> str:
        ended = command(*arguments)
        assert ended.status == 2, ended.output
        assert ended.output.endswith(f"pcvpt: error: {ended.error}\n")  # one line, no list
        return ended.error

    return run


def fit_demo(folder: Path, *options: Any) -> None:
    """Fit the demo for 1 + 1 short epochs, unless ``options`` say otherwise, below ``folder``."""
    arguments = ["fit", "--config", "demo.yaml", *PRUNED, *SMALL, "--output_dir", str(folder)]
    main([*arguments, *map(str, options)])


def same_weights(*runs: Path) -> bool:
    """Return whether two runs ended with the same weights, bit for bit."""
    files = (run / "checkpoints" / "finetune-last.ckpt" for run in runs)
    one, two = (torch.load(file, weights_only=True)["state_dict"] for file in files)
    return one.keys() == two.keys() and all(
        torch.equal(value.nan_to_num(), two[name].nan_to_num()) for name, value in one.items()
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the demo's finished run; not to be written to."""
    folder = tmp_path_factory.mktemp("finished")
    fit_demo(folder)
    return folder / "demo" / "version_0"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(finished: Path, work: Path) -> Path:
    """A copy of the finished run in runs/demo of the working folder."""
    return Path(shutil.copytree(finished, work / "runs" / "demo" / "version_0"))
