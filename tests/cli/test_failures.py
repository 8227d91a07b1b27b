"""Failures of memory, disk and other processes are told in one line; unknown ones are not."""

import errno

import pytest
import torch

from pcvpt.cli.failures import describe
from pcvpt.errors import UsageError


def _caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (UsageError("a.yaml: wrong"), "a.yaml: wrong"),
        (_caused_by(ValueError("wrapped"), UsageError("keep=2")), "keep=2"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "--data.batch_size"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when\ncalling"), "batch_size"),
        (MemoryError(), "(MemoryError)"),
        (RuntimeError("DataLoader worker (pid 3) is killed"), "--data.num_workers"),
        (RuntimeError("[/gloo/transport] Connection closed. And more"), "another process"),
        (OSError(errno.ENOSPC, "No space left", "a.ckpt"), "a.ckpt"),
        (ValueError("Could not determine home directory."), "~"),
        (UnicodeDecodeError("ascii", b"\xc3", 0, 1, "ordinal not in range"), "set PYTHONUTF8=1"),
        (KeyError("a bug"), None),
        (OSError(errno.ENOENT, "gone"), None),
        (ConnectionError("of no worker"), None),
    ],
)
def test_a_failure_is_told_in_one_line(error: Exception, part: str | None) -> None:
    told = describe(error)
    assert told == part if part is None else part in str(told)
    assert "\n" not in str(told)
