"""What every benchmark records of itself, and where; how times are told."""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import pcvpt
from pcvpt.cli.allocator import keep_freed_memory
from pcvpt.runs.environment import device_name

RESULTS = Path(__file__).parent / "results"


def hardware(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on: the processor, its cores and the threads used."""
    found: dict[str, Any] = {
        "cpu": device_name(torch.device("cpu")),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"], found["gpu_memory_gb"] = properties.name, properties.total_memory // 10**9
    return found


def on(found: dict[str, Any]) -> str:
    """Return :func:`hardware` in words."""
    if "gpu" in found:
        return f"{found['gpu']} ({found['gpu_memory_gb']} GB)"
    threads = "one thread" if found["threads"] == 1 else f"{found['threads']} threads"
    return f"{found['cpu']} ({found['instructions']}), {threads} of {found['cores']} cores"


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,  # with the version of CUDA
        **{name: version(name) for name in ("timm", "lightning")},
        "pcvpt": pcvpt.__version__,
    }


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="Device. Default: cuda if available."
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="Threads of the CPU. Default: 1 if the CPU is measured, because other work on the "
        "machine and the way cores share memory then matter least.",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="Folder of the JSON files.")
    return parser


def prepare(args: argparse.Namespace) -> torch.device:
    """Settle device and threads of this process, and freed memory, as the command does."""
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.threads is None and args.device == "cpu":
        args.threads = 1
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    return torch.device(args.device)


def write(
    name: str, device: torch.device, args: argparse.Namespace, **found: Any
) -> dict[str, Any]:
    """Write ``<name>_<device>.json`` into the folder of results and return what is in it."""
    kept = {k: v for k, v in vars(args).items() if k not in ("results", "device", "threads")}
    own = Path(sys.argv[0]).stem == name  # not when another program calls
    report = {
        "date": date.today().isoformat(),
        "command": " ".join(["python", f"benchmarks/{name}.py", *(sys.argv[1:] if own else [])]),
        "hardware": hardware(device),
        "versions": versions(),
        "options": kept,
        **found,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"{name}_{device.type}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    return report


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, least and most."""
    return statistics.median(values), min(values), max(values)


def ratio(times: dict[str, Any], side: str, of: str) -> tuple[float, float, float]:
    """Return the spread of ``side``'s time over that of ``of`` in the same round."""
    pairs = zip(times[side]["seconds"], times[of]["seconds"], strict=True)
    return spread([first / second for first, second in pairs])


def show(title: str, table: Table) -> None:
    """Print ``table`` below ``title``."""
    console = Console(width=150)
    console.print(title, highlight=False, soft_wrap=True)
    console.print(table)


def told(values: tuple[float, float, float], digits: int = 2) -> str:
    """Return median (least to most), as README writes it."""
    median, least, most = (f"{value:,.{digits}f}" for value in values)
    return f"{median} ({least} to {most})"
