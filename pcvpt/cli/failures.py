"""One line for each failure that a user can fix, without importing what may have failed."""

import errno
import re
import traceback
from argparse import ArgumentError

from pcvpt.errors import UsageError, causes, is_out_of_memory

# What jsonargparse says of a class of a list that can't be made, such as a logger.
_CLASS = re.compile(r"Problem with given class_path '(\S+)': (.+?) - Expected a")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_LOST_PEER = ("DistBackendError", "DistNetworkError", "DistStoreError")
_GLOO = ("/gloo/", "Application timeout caused pair closure")
_LOADER = "torch.utils.data.dataloader"
_RESUME = "what was saved is unharmed, and --resume continues from it"


def describe(error: BaseException) -> str | None:
    """Return one line on bad input, or on a lost process, memory or disk; else None."""
    for cause in causes(error):  # jsonargparse wraps what a constructor raises
        if isinstance(cause, UsageError):
            return str(cause)
    text = " ".join(str(error).split())
    if "Could not determine home directory" in text:
        return "a path begins with ~ and the name of no user; write the whole path"
    if isinstance(error, UnicodeError):
        return f"text is not in the encoding of this system ({text}); set PYTHONUTF8=1"
    if isinstance(error, ArgumentError) or text.startswith("Does not validate"):
        found = _CLASS.search(text)
        return f"{found[1]}: {found[2]}" if found else text
    origin = (_modules(error) or [""])[-1]
    of_trainer = isinstance(error, ValueError) and origin.startswith("lightning.")
    if of_trainer or _has_class(error, "MisconfigurationException"):
        return f"trainer: {text}"
    return _of_machine(error)


def _of_machine(error: BaseException) -> str | None:
    """Return what to do when memory, the disk or another process fails; else None."""
    text = str(error)
    if is_out_of_memory(error):
        said = " ".join(text.split()).partition(". ")[0] or type(error).__name__
        return (
            f"not enough memory ({said}); lower --data.batch_size, or set "
            f"--model.gradient_checkpointing true or --trainer.precision bf16-mixed; {_RESUME}"
        )
    # A DataLoader finds its connection to a worker process gone.
    broken = isinstance(error, ConnectionError | EOFError) and _LOADER in _modules(error)
    if "DataLoader worker (pid" in text or broken:
        return (
            f"a process that reads images was killed ({text.strip().splitlines()[0]}), usually "
            f"for lack of memory; lower --data.num_workers or --data.batch_size; {_RESUME}"
        )
    lost = isinstance(error, RuntimeError) and any(sign in text for sign in _GLOO)
    if lost or _has_class(error, *_LOST_PEER):
        return (
            f"another process of this run has ended or can't be reached "
            f"({text.partition('. ')[0].strip()}); its own message names the cause; {_RESUME}"
        )
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = error.filename or "a file of the run"
        return f"{where}: can't be written ({error.strerror}); make room; {_RESUME}"
    return None


def _has_class(error: BaseException, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _modules(error: BaseException) -> list[str]:
    """Return the names of the modules that ``error`` came through."""
    frames = traceback.walk_tb(error.__traceback__)
    return [str(frame.f_globals.get("__name__")) for frame, _ in frames]
