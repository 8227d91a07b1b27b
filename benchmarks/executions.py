"""Time of a training step and of inference, prompts as tokens against prompts as keys and values.

    python benchmarks/executions.py [--backbone vit_base_patch16_224] [--prompts 0 50 200]

Both sides run in one process, turn by turn, so that whatever else the machine does falls on both.
Prints a table and writes ``benchmarks/results/executions_<device>.json``.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from report import hardware, write
from rich.console import Console
from rich.table import Table

import pcvpt


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return how long one call of ``work`` takes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(backbone: str, prompts: int, batch: int, repeats: int, device: torch.device) -> dict:
    """Return medians and spread of both executions for one number of prompts."""
    mode = "deep" if prompts else "linear"
    model = pcvpt.create_model(backbone, 100, prompts, mode=mode, pretrained=False).to(device)
    images = torch.randn(batch, 3, *model.patch_embed.img_size, device=device)
    labels = torch.randint(0, 100, (batch,), device=device)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        model(images)

    result: dict = {"prompts": prompts}
    for name, work in (("step", step), ("inference", infer)):
        model.train(name == "step")
        times: dict[str, list[float]] = {"tokens": [], "prefix": []}
        for repeat in range(repeats + 1):
            for execution, found in times.items():
                model.execution = execution
                elapsed = seconds(work, device)
                if repeat:  # the first warms up
                    found.append(elapsed)
        ratios = [t / p for t, p in zip(times["tokens"], times["prefix"], strict=True)]
        result[name] = {
            **{f"{k}_median_s": statistics.median(v) for k, v in times.items()},
            "ratio_median": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--prompts", type=int, nargs="+", default=[0, 50, 200])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [compare(args.backbone, p, args.batch, args.repeats, device) for p in args.prompts]
    write("executions", device, args, timm=timm.__version__, rows=rows)
    table = Table(title=f"tokens / prefix, {args.backbone}, batch {args.batch}, {hardware(device)}")
    for column in ("prompts", "training step", "inference"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [
            f"{row[k]['ratio_median']:.2f} ({row[k]['ratio_min']:.2f} to {row[k]['ratio_max']:.2f})"
            for k in ("step", "inference")
        ]
        table.add_row(str(row["prompts"]), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
