"""Fits that an analysis needs, as processes of ``pcvpt fit``; none is done twice."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pcvpt.errors import UsageError
from pcvpt.runs.atomic import write_json
from pcvpt.runs.folder import is_finished, run_to_resume

_BEGUN, _LOG = "begun.json", "fit.log"


@dataclass(frozen=True)
class Fit:
    """One fit, in a folder of its own.

    Args:
        folder: of its run folders; the name of the fit is the last part.
        config: the configuration that it starts from.
        options: further arguments of ``pcvpt fit``.
        checkpoint: that it starts from.
        epochs: that it takes, for the words about it.
    """

    folder: Path
    config: Path
    options: tuple[str, ...]
    checkpoint: Path | None
    epochs: int

    @property
    def name(self) -> str:
        """The name of the fit."""
        return self.folder.name

    def check(self) -> None:
        """Raise a UsageError if the folder has another fit than this one."""
        file = self.folder / _BEGUN
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != self._told():
            raise UsageError(
                f"{self.folder}: this fit was begun from another run, or with other options; "
                "remove the folder, or name another by --output"
            )

    def finished(self) -> Path | None:
        """Return the run folder if the fit has come to its end."""
        run = run_to_resume(self.folder)
        return run if run is not None and is_finished(run) else None

    def begin(self, threads: int) -> "Process":
        """Start the fit, or go on with it where it was cut off."""
        write_json(self.folder / _BEGUN, self._told())
        resumed = run_to_resume(self.folder) is not None
        start = "null" if self.checkpoint is None else str(self.checkpoint)
        command = [
            *(sys.executable, "-m", "pcvpt", "fit", "--config", str(self.config), *self.options),
            *("--output_dir", str(self.folder.parent), "--name", self.name),
            *(("--ckpt_path", "null", "--resume") if resumed else ("--ckpt_path", start)),
        ]
        log = (self.folder / _LOG).open("w", encoding="utf-8")
        count = str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        return Process(self, process, log, time.monotonic(), resumed)

    def _told(self) -> dict[str, object]:
        """Return what the result depends on, wherever the files are."""
        files = [self.config] + [self.checkpoint] * (self.checkpoint is not None)
        hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file]
        return {"options": list(self.options), "files": hashes}


@dataclass(frozen=True)
class Process:
    """A fit that is on its way."""

    fit: Fit
    process: "subprocess.Popen[bytes]"
    log: IO[str]
    since: float
    resumed: bool

    def ended(self) -> bool:
        """Say whether it has come to its end.

        Raises:
            UsageError: when it failed, with what it said last.
        """
        code = self.process.poll()
        if code is None:
            return False
        self.log.close()
        if code or self.fit.finished() is None:
            file = self.fit.folder / _LOG
            said = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            raise UsageError(f"the fit {self.fit.name} failed ({file}): {''.join(said[-1:])}")
        return True

    def stop(self) -> None:
        """Ask it to end, which saves where it is, and wait for that."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.log.close()


def run_fits(fits: Sequence[Fit], jobs: int, threads: int) -> None:
    """Run what is missing of ``fits``, so many at a time, and print a line for each.

    Where this is interrupted, so are they, and the next call goes on with them.

    Raises:
        UsageError: when one failed; the others are stopped.
    """
    for fit in fits:
        fit.check()
    waiting = [fit for fit in fits if fit.finished() is None]
    done, total = len(fits) - len(waiting), len(fits)
    if done:
        print(f"Fits: {done} of {total} are there already", flush=True)
    running: list[Process] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0).begin(threads))
                begun = running[-1]
                how = "goes on" if begun.resumed else "begins"
                print(f"Fit {begun.fit.name}, {begun.fit.epochs} epochs: {how}", flush=True)
            for process in list(running):
                if process.ended():
                    running.remove(process)
                    done += 1
                    seconds = time.monotonic() - process.since
                    name = process.fit.name
                    print(f"Fit {name}: {seconds:.0f} s; {done} of {total}", flush=True)
            time.sleep(0.1)
    finally:
        for process in running:
            process.stop()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
