"""Fits that an analysis needs, each a process of ``pcvpt fit``; none is run twice."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pcvpt.errors import UsageError
from pcvpt.runs.atomic import write_json
from pcvpt.runs.folder import finished_run, run_to_resume

_IDENTITY, _LOG = "begun.json", "fit.log"


@dataclass(frozen=True)
class Fit:
    """One fit in a separate folder, whose name is that of the fit."""

    folder: Path  # of its run folders
    config: Path
    options: tuple[str, ...]  # of ``pcvpt fit``
    checkpoint: Path | None  # None to start from the initial prompts
    epochs: int  # to be printed

    def check(self) -> None:
        """Raise a UsageError if the folder has another fit."""
        file = self.folder / _IDENTITY
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != self._identity():
            raise UsageError(
                f"{self.folder}: this fit was begun from another run, or with other options; "
                "remove the folder, or name another by --output"
            )

    def finished(self) -> Path | None:
        """Return the run folder if the fit is finished."""
        return finished_run(self.folder)

    def require_finished(self, status: int) -> None:
        """Raise a UsageError with the last line of the log if the ended process failed."""
        if status or self.finished() is None:
            file = self.folder / _LOG
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            raise UsageError(f"the fit {self.folder.name} failed ({file}): {''.join(lines[-1:])}")

    def start(self, threads: int) -> "subprocess.Popen[bytes]":
        """Start the fit, or resume it where it was interrupted; return its process."""
        write_json(self.folder / _IDENTITY, self._identity())
        resumed = run_to_resume(self.folder) is not None
        first = "null" if self.checkpoint is None else str(self.checkpoint)
        command = [
            *(sys.executable, "-m", "pcvpt", "fit", "--config", str(self.config), *self.options),
            *("--output_dir", str(self.folder.parent), "--name", self.folder.name),
            *(("--ckpt_path", "null", "--resume") if resumed else ("--ckpt_path", first)),
        ]
        count = str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        how = "resumed" if resumed else "started"
        print(f"Fit {self.folder.name}, {self.epochs} epochs: {how}", flush=True)
        with (self.folder / _LOG).open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _identity(self) -> dict[str, object]:
        """Return all that the result depends on, but not where the files are."""
        files = [file for file in (self.config, self.checkpoint) if file is not None]
        hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return {"options": list(self.options), "files": hashes}


def run_fits(fits: Sequence[Fit], jobs: int, threads: int) -> None:
    """Run those of ``fits`` that are not finished, ``jobs`` at a time, and print a line for each.

    If this is interrupted, the fits are interrupted too, and the next call resumes them.

    Raises:
        UsageError: If a fit failed. The others are stopped.
    """
    for fit in fits:
        fit.check()
    waiting = [fit for fit in fits if fit.finished() is None]
    done, total = len(fits) - len(waiting), len(fits)
    if done:
        print(f"Fits: {done} of {total} are finished already", flush=True)
    running: list[tuple[Fit, subprocess.Popen[bytes], float]] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                fit = waiting.pop(0)
                running.append((fit, fit.start(threads), time.monotonic()))
            for one in list(running):
                fit, process, since = one
                if process.poll() is not None:
                    running.remove(one)
                    fit.require_finished(process.returncode)
                    done += 1
                    seconds = time.monotonic() - since
                    print(f"Fit {fit.folder.name}: {seconds:.0f} s; {done} of {total}", flush=True)
            time.sleep(0.1)
    finally:
        for _, process, _ in running:
            process.terminate()  # it saves its state before it ends
        for _, process, _ in running:
            process.wait()
