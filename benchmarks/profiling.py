"""Lightning's simple profiler, to be named in a configuration and to leave its sums in a file."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.profilers import SimpleProfiler


class SummingProfiler(SimpleProfiler):
    """Writes the seconds of every action and how often it was to ``<file>``, as JSON.

    On a GPU it waits for the device at the start and the end of each action, so that time falls
    to the action that caused it. That costs the overlap of both: take the wall time of a run from
    one without.

    Args:
        file: JSON file to write.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def start(self, action_name: str) -> None:
        self._finish()
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        self._finish()
        super().stop(action_name)

    def summary(self) -> str:
        sums = {name: [sum(d), len(d)] for name, d in self.recorded_durations.items()}
        self.file.write_text(json.dumps(sums, indent=1))
        return ""

    def teardown(self, stage: str | None, *args: Any) -> None:
        self.summary()
        super().teardown(stage, *args)

    def _finish(self) -> None:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
