"""What to say of failures around a run that are nobody's mistake in its configuration."""

import errno
import traceback

import torch

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_GO_ON = "what was saved is unharmed: --resume goes on from it"


def describe_failure(error: BaseException) -> str | None:
    """Return one line on a lost process, memory or disk; None for any other error."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"the GPU is out of memory ({text.split('.')[0]}); lower --data.batch_size, or set "
            f"--model.gradient_checkpointing true or --trainer.precision bf16-mixed; {_GO_ON}"
        )
    if "DataLoader worker (pid" in text or _broken_off(error):
        return (
            f"a process that reads images was killed ({text.strip().splitlines()[0]}), mostly for "
            f"want of memory; lower --data.num_workers or --data.batch_size; {_GO_ON}"
        )
    if _peer_lost(error):
        return (
            f"another process of this run has ended or can't be reached "
            f"({text.partition('. ')[0].strip()}); what it says itself is the cause; {_GO_ON}"
        )
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = error.filename or "a file of the run"
        return f"{where}: can't be written ({error.strerror}); make room; {_GO_ON}"
    return None


def _peer_lost(error: BaseException) -> bool:
    """Say whether a collective operation failed, by gloo or NCCL, or a process did not come."""
    kinds = ("DistBackendError", "DistNetworkError", "DistStoreError")
    gloo = ("/gloo/", "Application timeout caused pair closure")
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in gloo)
    return said or type(error).__name__ in kinds


def _broken_off(error: BaseException) -> bool:
    """Say whether a DataLoader found its connection to a worker process gone."""
    if not isinstance(error, ConnectionError | EOFError):
        return False
    modules = (
        frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)
    )
    return "torch.utils.data.dataloader" in modules
