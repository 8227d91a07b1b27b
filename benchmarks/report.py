"""What every benchmark records of itself, and where."""

import argparse
import json
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def write(
    name: str, device: torch.device, args: argparse.Namespace, **found: Any
) -> dict[str, Any]:
    """Write ``results/<name>_<device>.json`` and return what is in it."""
    report = {
        "date": date.today().isoformat(),
        "hardware": hardware(device),
        "torch": torch.__version__,
        **vars(args),
        **found,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}_{device.type}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    return report
