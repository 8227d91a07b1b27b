"""Run folders: which run is meant, and which of its checkpoints."""

import os
import platform
import re
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import torch

from pcvpt.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG, RESULTS, CHECKPOINTS = "config.yaml", "results.json", "checkpoints"


def folder_of(trainer: pl.Trainer) -> Path:
    """Return the run folder of ``trainer``; all processes must ask together."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def find_run(name: str) -> Path:
    """Return the run folder meant by ``name``: itself, or the newest run within.

    Raises:
        UsageError: when there is none.
    """
    folder = Path(name).expanduser()
    runs = [run for run in (folder, *folder.glob("version_*")) if (run / CONFIG).is_file()]
    runs = [run for run in runs if any(run.glob(f"{CHECKPOINTS}/*.ckpt"))] or runs
    if not runs:
        raise UsageError(f"{folder}: no finished run here (no {CONFIG}); `pcvpt fit` makes one")
    return max(runs, key=_number)


def title_of(run: Path) -> str:
    """Return what the run in folder ``run`` is called in tables and figures."""
    return f"{run.parent.name}/{run.name}" if run.name.startswith("version_") else run.name


def run_to_resume(folder: Path) -> Path | None:
    """Return the newest run in ``folder`` that is to be gone on with, or has come to its end.

    None means a new one: there is no other, or the newest was cut off before its first checkpoint,
    and the one before it is finished.
    """
    cut_off = False
    for run in sorted(folder.glob("version_*"), key=_number, reverse=True):
        if is_finished(run):
            return None if cut_off else run
        if any(run.glob(f"{CHECKPOINTS}/*-last.ckpt")):
            return run
        cut_off |= (run / CONFIG).is_file()
    return None


def is_finished(run: Path) -> bool:
    """Say whether the run in folder ``run`` has come to its end."""
    return (run / RESULTS).is_file()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what is in the checkpoint ``path``; no code in it is run.

    Raises:
        UsageError: naming ``path``, unless it is a readable checkpoint of pcvpt.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
        known = isinstance(checkpoint, dict) and "pcvpt" in checkpoint
    except Exception as error:  # damaged and foreign files raise nearly anything
        raise UsageError(f"{path}: not a readable checkpoint") from error
    if not known:
        raise UsageError(f"{path}: not a checkpoint of pcvpt")
    return dict(checkpoint)


def last_checkpoint(run: Path) -> Path:
    """Return the checkpoint that the run in folder ``run`` goes on from: that of most steps.

    Raises:
        UsageError: when there is none, or one can't be read.
    """
    found = sorted(run.glob(f"{CHECKPOINTS}/*-last.ckpt"))
    if not found:
        raise UsageError(f"{run}: no checkpoint here to go on from")
    return max(found, key=lambda path: int(_resumable(path)["global_step"]))


def default_checkpoint(run: Path) -> Path:
    """Return the checkpoint that stands for the run in folder ``run``.

    That is the condensed best, or else the last of fine-tuning, or those of prompt training. Of
    several budgets, it is that of the only one that was fine-tuned.

    Raises:
        UsageError: when there is none, or when several budgets leave a choice.
    """
    found = {path.stem for path in run.glob(f"{CHECKPOINTS}/*.ckpt")}
    masked = sorted(stem for stem in found if stem.startswith("masked_"))
    # A run resumed amid fine-tuning has no masked ones.
    named = (re.fullmatch(r"masked(_.+)|finetune(_.+)-(?:best|last)", stem) for stem in found)
    budgets = sorted({match[1] or match[2] for match in named if match})

    def of_phase(name: str) -> list[str]:
        return [stem for stem in (f"{name}-best", f"{name}-last") if stem in found][:1]

    finetuned = [stem for budget in ("", *budgets) for stem in of_phase(f"finetune{budget}")]
    choices = finetuned if len(finetuned) == 1 else [*finetuned, *masked, *of_phase("prompt")]
    if not choices:
        raise UsageError(f"{run}: no checkpoint here yet")
    if len(choices) > 1:
        raise UsageError(
            f"{run} has several budgets; choose one by --ckpt_path {run}/{CHECKPOINTS}/NAME.ckpt, "
            f"where NAME is one of {', '.join(choices)}"
        )
    return run / CHECKPOINTS / f"{choices[0]}.ckpt"


def tests_of(checkpoint: Path) -> list[Path]:
    """Return the files with the figures of each test of ``checkpoint``, in their order."""
    run = checkpoint.parent.parent
    found = (
        re.fullmatch(rf"test-{re.escape(checkpoint.stem)}(?:-(\d+))?", file.stem)
        for file in sorted(run.glob("test-*.json"))
    )
    numbers = sorted(int(match[1] or 1) for match in found if match)
    return [file_of_test(checkpoint, number) for number in numbers]


def file_of_test(checkpoint: Path, number: int) -> Path:
    """Return the file for the figures of a test of ``checkpoint``, counted from 1."""
    name = f"test-{checkpoint.stem}" + f"-{number}" * (number > 1)
    return checkpoint.parent.parent / f"{name}.json"


def _number(run: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", run.name)] or [0]


def _resumable(path: Path) -> dict[str, Any]:
    try:
        return read_checkpoint(path)
    except UsageError as error:
        raise UsageError(
            f"{error}; move it away, and the run goes on from the one before"
        ) from error


class RunLock:
    """Says that this process trains the run of a folder, for as long as it lives."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def take(self, run: Path) -> str | None:
        """Take the lock of the run in folder ``run``; return who has it if that is another process.

        Where the system or the file system has no locks, all is taken to be well.
        """
        run.mkdir(parents=True, exist_ok=True)
        file = (run / ".lock").open("a+")
        try:
            if fcntl is not None:
                # Not flock: worker processes would inherit it, and outlive this one by seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            return file.read().strip() or "another process"
        except OSError:
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        self._file = file
        return None

    def release(self) -> None:
        """Let another process take it."""
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None
