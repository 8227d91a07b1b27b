"""Runs of the command on several processes of this machine, by gloo."""

from pathlib import Path

import pytest
import torch
from commands import Runs
from torch import Tensor

from pcvpt.cli.main import main

DDP = ("--trainer.strategy=ddp", "--trainer.devices=2")


class RankedRuns(Runs):
    """Starts runs of which each process records what it ends with."""

    def ranked(self, name: str, configs: tuple[str, ...], *options: str) -> list[str]:
        """Return the arguments of ``pcvpt`` for the run ``name``."""
        recorder = ("--trainer.callbacks+", "commands.callbacks.RankRecorder")
        folder = ("--trainer.callbacks.folder", str(self.folder / name / "ranks"))
        fault = ("--trainer.callbacks+", "commands.callbacks.Fault")
        return self.arguments(name, ("common", *configs), *options, *recorder, *folder, *fault)

    def here(self, name: str, configs: tuple[str, ...], *options: str) -> dict[str, Tensor]:
        """Run the command in this process and return what it ends with."""
        main(self.ranked(name, configs, *options))
        (one,) = self.ranks(name, 1)
        return one

    def ranks(self, name: str, number: int) -> list[dict[str, Tensor]]:
        """Return what each of ``number`` processes has ended with."""
        files = sorted((self.folder / name / "ranks").iterdir())
        assert [file.name for file in files] == [f"rank-{rank}.pt" for rank in range(number)]
        return [torch.load(file, weights_only=True) for file in files]

    def check(self, name: str, number: int, one: dict[str, Tensor]) -> None:
        """Compare each process of the run ``name`` with a run on one process."""
        for rank in self.ranks(name, number):
            assert torch.equal(rank["keep"], one["keep"])
            assert_close(rank, one)
        assert self.results(name) == self.results("one")


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """Compare tensors up to what sums in another order may differ by."""
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-5, rtol=0, equal_nan=True)


@pytest.fixture
def runs(tmp_path: Path) -> RankedRuns:
    return RankedRuns(tmp_path, Path(__file__).parent / "configs")
