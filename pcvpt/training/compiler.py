"""Whether torch will find what it needs to compile a model."""

import os
import shutil
import sys

import torch

from pcvpt.errors import UsageError


def require_compiler() -> None:
    """Refuse to compile for the CPU where torch would find no compiler of C++, at the first step.

    On a GPU it is Triton that compiles.

    Raises:
        UsageError: naming the compiler, where it is missing.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if not torch.cuda.is_available() and shutil.which(compiler.split()[0]) is None:
        raise UsageError(
            f"compile=True needs a compiler of C++, and there is no {compiler!r}; install one, "
            "name it in the environment variable CXX, or leave `compile` out"
        )
