"""Time of a training step on the CPU, with glibc's own thresholds and with freed memory kept.

    python benchmarks/allocation.py [--backbone vit_small_patch16_224] [--batch 64]

A process cannot undo the change, so each side runs in new processes, in turn. Prints the
medians and writes ``benchmarks/results/allocation_cpu.json``.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from report import options, write

import pcvpt
from pcvpt.cli.allocator import keep_freed_memory

SIDES = ("glibc's own", "freed memory kept")


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Return the median time of a step in this process, and its peak of memory."""
    if args.side == SIDES[1]:
        assert keep_freed_memory()
    model = pcvpt.create_model(args.backbone, 100, args.prompts, pretrained=False)
    images = torch.randn(args.batch, 3, *model.patch_embed.img_size)
    labels = torch.randint(0, 100, (args.batch,))
    seconds = []
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        F.cross_entropy(model(images), labels).backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": statistics.median(seconds[1:]), "peak_mb": peak}


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = options(__doc__)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.device == "cuda":
        parser.error("--device cuda: this is about memory of the CPU")
    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    if args.side:
        print(json.dumps(measure(args)))
        return
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(args.repeats):
        for side in SIDES:
            command = [sys.executable, __file__, *arguments, "--side", side]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[side].append(json.loads(said))
    ratios = [own["seconds"] / kept["seconds"] for own, kept in zip(*found.values(), strict=True)]
    del args.side
    report = write(
        "allocation",
        torch.device("cpu"),
        args,
        libc=" ".join(platform.libc_ver()),
        **{side: {k: statistics.median(r[k] for r in runs) for k in runs[0]}
           for side, runs in found.items()},
        ratio_median=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
    )  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
