"""A run that is interrupted in many ways, and what it ends with when nothing interrupts it."""

from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from commands import LIMIT, Runs, differences, leaves


class Interrupted(Runs):
    """Starts the same run under several names."""

    def start(
        self, name: str, *options: str, often: bool = False, fault: dict[str, str] | None = None
    ) -> BaseProcess:
        """Start the run ``name`` in a process.

        Args:
            name: Run name.
            options: Further options of the command.
            often: Whether to save every four steps.
            fault: Environment of the process, such as from :func:`commands.callbacks.at`.
        """
        arguments = self.arguments(name, ["run"] + ["often"] * often, *options)
        return self.fork(arguments, self.folder / f"{name}.txt", fault)

    def finish(self, name: str, *options: str, **rest: Any) -> int | None:
        """Start a run, wait for its end and return its exit status."""
        process = self.start(name, *options, **rest)
        process.join(LIMIT)
        if process.exitcode is None:
            process.kill()
            pytest.fail(f"the run hangs: {self.said(name)}")
        return process.exitcode

    def resume(self, name: str, *options: str, **rest: Any) -> None:
        """Resume a run and check that it ends with the bits of the one that nothing interrupted."""
        assert self.finish(name, "--resume", *options, **rest) == 0, self.said(name)
        assert differences(self.outcome("whole"), self.outcome(name)) == []

    def said(self, name: str) -> str:
        """Return what all starts of ``name`` have printed."""
        return (self.folder / f"{name}.txt").read_text()

    def error(self, name: str) -> str:
        """Return the one line that says why ``name`` has failed."""
        assert "Traceback" not in self.said(name)
        (line,) = (x for x in self.said(name).splitlines() if x.startswith("pcvpt: error"))
        return line

    def outcome(self, name: str) -> dict[str, Any]:
        """Return everything a run ends with except times: last checkpoints, and accuracies."""
        found: dict[str, Any] = {}
        for stage in ("prompt-last", "finetune_0.5-last", "finetune_0.3-last"):
            saved = self.checkpoint(name, stage)
            best = saved["callbacks"]["PhaseCheckpoint"]
            parts = {part: saved[part] for part in ("state_dict", "optimizer_states")}
            found |= leaves({**parts, "best": best}, stage)
        report = leaves(self.results(name)["budgets"], "results")
        return found | {key: value for key, value in report.items() if "seconds" not in key}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """Return runs of which ``whole`` is finished."""
    made = Interrupted(tmp_path_factory.mktemp("runs"), Path(__file__).parent / "configs")
    assert made.finish("whole") == 0, made.said("whole")
    return made
