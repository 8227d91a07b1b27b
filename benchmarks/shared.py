"""Runs that share one device as separate processes, against one run alone.

    python benchmarks/shared.py [--runs 3] [options of pcvpt fit]

Each run is ``pcvpt fit`` and ``pcvpt test`` on a small task of noise, as ``task.py`` runs it. What
is told is the time of all runs together over that of as many runs one after another: a run alone
leaves a GPU idle while it starts, reads images and writes files.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from report import options, prepare, write
from synthetic import write_vtab
from task import run

from pcvpt.data import TASKS


def seconds(args: argparse.Namespace, root: Path, further: Sequence[str], runs: int) -> float:
    """Return the wall time of ``runs`` runs at once."""
    folders = [root / f"{runs}_{number}" for number in range(runs)]
    counts = {"train800": args.train, "val200": args.val, "test": args.test}
    for folder in folders:  # images of their own too: a run writes beside them
        write_vtab(folder / args.task, TASKS[args.task].num_classes, counts, (400, 300))
    start = time.perf_counter()
    with ThreadPoolExecutor(runs) as pool:
        list(pool.map(lambda folder: run(args, folder, further, profile=False), folders))
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="Runs at once.")
    parser.add_argument("--task", default="dtd")
    parser.add_argument("--train", type=int, default=400, help="Training images.")
    parser.add_argument("--val", type=int, default=100, help="Validation images among them.")
    parser.add_argument("--test", type=int, default=100, help="Test images.")
    parser.add_argument("--prompt_epochs", type=int, default=5)
    parser.add_argument("--finetune_epochs", type=int, default=1)
    parser.add_argument("--precision", default="bf16-mixed")
    args, further = parser.parse_known_args(arguments)
    device = prepare(args)
    further.append(f"--trainer.precision={args.precision}")
    with tempfile.TemporaryDirectory() as folder:
        alone = seconds(args, Path(folder), further, 1)
        together = seconds(args, Path(folder), further, args.runs)
    write("shared", device, args, alone=alone, together=together, fit_options=further)
    print(
        f"{args.runs} runs at once take {together:.1f} s, one alone {alone:.1f} s: "
        f"{together / (args.runs * alone):.2f} of as many one after another"
    )


if __name__ == "__main__":
    main()
