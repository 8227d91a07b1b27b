"""Environment of a run: versions, machine, state of the code."""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from pcvpt.runs.version import __version__

_PACKAGES = (
    *("torchvision", "lightning", "timm", "torchmetrics", "jsonargparse"),
    *("safetensors", "numpy", "pillow"),
)


def describe_environment() -> dict[str, Any]:
    """Return time, command, versions, machine and, if known, the state of git, as plain types."""
    versions = {
        "python": platform.python_version(),
        "pcvpt": __version__,
        "torch": str(torch.__version__),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    cuda = torch.cuda.is_available()
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions,
        "host": platform.node(),
        "system": platform.platform(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "git": git_state(Path.cwd()),
        "git_of_pcvpt": git_state(Path(__file__).parent),
    }


def unusable_gpu() -> str | None:
    """Return why torch can't use the GPUs of NVIDIA in this machine; None if it can.

    None too without such a GPU or its driver, and where ``CUDA_VISIBLE_DEVICES`` hides all. CUDA is
    not initialised by this, so processes can still be forked.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    newest = ctypes.c_int()  # version of CUDA that the driver supports, such as 12020
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(newest))
    except OSError:
        return None
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return None
    own, driver = torch.version.cuda, f"{newest.value // 1000}.{newest.value % 1000 // 10}"
    if own is None:
        return None if torch.version.hip else f"torch {torch.__version__} is built without CUDA"
    if int(own.partition(".")[0]) > newest.value // 1000:
        return f"torch {torch.__version__} needs CUDA {own}, but its driver has CUDA {driver}"
    return None if torch.cuda.is_available() else "torch.cuda.is_available() is False"


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return the name of ``device``, and the most memory that this process has had there, in MB.

    On the CPU that is the memory of the whole process.
    """
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if cuda else _peak_memory()
    return {"device": device_name(device), "peak_memory_mb": peak and round(peak / 1e6)}


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or that of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _peak_memory() -> int | None:
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the repository around ``folder``, and whether files differ from it.

    None without a repository, or without git.
    """
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        said = subprocess.check_output(
            [*command, "--exclude=*"], stderr=subprocess.DEVNULL, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": said.strip().removesuffix("-dirty"), "changed": "-dirty" in said}
