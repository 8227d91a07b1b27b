"""Signals that end a run: from the system, from a scheduler, from the keyboard."""

import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from rich.file_proxy import FileProxy

# SLURM sends SIGUSR1 where a job asks for it (`--signal=USR1@90`), and SIGTERM at its end.
_NUMBERS = [
    int(getattr(signal, name)) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)
]
_before: dict[int, object] = {}
_received: list[int] = []


class Interrupted(SystemExit):
    """End of a run by a signal, with the usual exit status: 128 plus the number of the signal.

    Args:
        number: Number of the signal; 0 for a run that its Trainer was asked to stop, which ends
            with status 75, "try again later".
        launched: Whether the first process has started this one. It takes any status but 0 for a
            failure, and kills all other processes and itself.
    """

    def __init__(self, number: int, launched: bool = False) -> None:
        super().__init__(0 if launched else 128 + number if number else 75)


def listen() -> None:
    """Note signals from now on instead of ending at once; a second Ctrl-C still ends at once."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may
    for number in _NUMBERS:
        current = signal.getsignal(number)
        if current is not _note:
            _before.setdefault(number, current)
            signal.signal(number, _note)


def forget() -> None:
    """Undo :func:`listen`, and forget the signals that came."""
    for number, handler in _before.items():
        if signal.getsignal(number) is _note:
            signal.signal(number, handler)  # type: ignore[arg-type]
    _before.clear()
    _received.clear()


def received() -> int:
    """Return the number of the first signal that came since :func:`listen`, 0 for none."""
    return _received[0] if _received else 0


def shield_worker(worker: int) -> None:
    """Let a worker of a DataLoader survive the signals that :func:`listen` notes.

    A terminal, or a scheduler, sends them to all processes of a group. Without its workers, the
    main process would get no more batches, and end before it has saved.
    """
    for number in _NUMBERS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    # The main process itself sends SIGTERM to workers that don't end.
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with_parent, daemon=True).start()


def announce(number: int) -> None:
    """Print how to resume the run that signal ``number`` ends, and requeue its job if due.

    The number is 0 if the Trainer was asked to stop. Only the first process may call this.
    """
    text, done = "Saved; the same command with --resume continues from here.", requeue(number)
    text = text if number else f"Stopped before its end by max_time or a callback. {text}"
    _print(f"{text} SLURM: {done}." if done else text)


def requeue(number: int) -> str | None:
    """Let SLURM start the job again if signal ``number`` asks for that; return what was done.

    SIGUSR1 asks for it in a batch job. A job that gets SIGTERM is cancelled, or SLURM itself
    requeues it.
    """
    interactive = os.getenv("SLURM_JOB_NAME") in ("bash", "interactive")
    in_batch_job = "SLURM_JOB_ID" in os.environ and not interactive
    if number != getattr(signal, "SIGUSR1", None) or not in_batch_job:
        return None
    array, task = os.getenv("SLURM_ARRAY_JOB_ID"), os.getenv("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    if not re.fullmatch(r"[0-9_]+", job):
        return f"SLURM's job {job!r} has no number; it was not requeued"
    try:
        subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else ""
        return f"job {job} could not be requeued ({said or error})"
    return f"job {job} was requeued"


def _note(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and number in _received:
        raise KeyboardInterrupt
    if not _received:
        again = "; again to end at once" if number == signal.SIGINT else ""
        _print(f"\n{signal.Signals(number).name}: the run ends after this step{again}")
    _received.append(number)


def _print(text: str) -> None:
    """Write ``text`` to stderr, without an error if nobody reads that.

    A display that moves takes it itself, since it would erase what others write below it.
    """
    _drop_broken_pipes()
    with suppress(OSError):
        if isinstance(sys.stderr, FileProxy):
            print(text, file=sys.stderr)
        else:
            os.write(2, f"{text}\n".encode())


def _drop_broken_pipes() -> None:
    """Redirect output to nowhere if it goes to a pipe that nobody reads any more.

    Ctrl-C also ends the ``tee`` that reads the output. The next line of a progress bar would then
    end the run before it has saved.
    """
    if not hasattr(select, "poll"):
        return
    time.sleep(0.1)  # until it has died
    for stream in sys.stdout, sys.stderr:
        with suppress(OSError, ValueError, AttributeError):
            number = stream.fileno()
            watch = select.poll()
            watch.register(number, 0)
            if any(event & select.POLLERR for _, event in watch.poll(0)):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)


def _end_with_parent() -> None:
    """End this process once its parent sends SIGTERM; ignore the SIGTERM of any other process."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
