"""All that needs a GPU, by one command: the tests marked ``gpu``, then the benchmarks.

    make gpu        # or: python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --tiny --results /tmp/tiny    # the same plan in miniature

It ends in less than nine minutes: what is not done by then is stopped and named. The benchmarks
write their JSON, with the name of the GPU, into the folder of results, from which
``python benchmarks/tables.py`` writes the tables of the documentation. The task has 1,000 images
and a tenth of its epochs; its full length of 100 + 20 epochs is projected from that.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from report import RESULTS

LIMIT = 530  # seconds
HERE = Path(__file__).parent
VIT, SWIN = "vit_base_patch16_224", "swin_base_patch4_window7_224"
TINY = "vit_tiny_patch16_224"


def plan(tiny: bool) -> dict[str, list[str]]:
    """Return the options of each benchmark by its name, the most important first.

    Args:
        tiny: Smallest models and numbers, which only show that the commands run.
    """
    if tiny:
        small = ["--backbone", TINY, "--image_size", "32", "--prompts", "2", "--repeats", "1"]
        images = ["--train", "8", "--val", "4", "--test", "6", f"--model.backbone={TINY}"]
        images += ["--model.image_size=32", "--data.batch_size=4", "--data.num_workers=0"]
        epochs = ["--prompt_epochs", "1", "--finetune_epochs", "1", "--precision", "bf16-mixed"]
        step = ["--backbones", TINY, "--image_size", "32", "--batch", "2", "--prompts", "2"]
        return {
            "step": [*step, "--repeats", "1", "--precision", "bf16", "--sides", "prefix"],
            "task": [*images, *epochs],
            "shared": ["--runs", "2", *images, *epochs],
            "scoring": [*small, "--images", "4", "--batch", "2"],
            "inference": [*small, "--batches", "2", "--sides", "timm", "prefix"],
        }
    epochs = ["--prompt_epochs", "10", "--finetune_epochs", "2", "--precision", "bf16-mixed"]
    step = ["--backbones", VIT, SWIN, "--prompts", "50", "--batch", "64", "--repeats", "10"]
    return {
        "step": [*step, "--precision", "bf16", "--sides", "release", "prefix", "linear"],
        "task": ["--test", "200", *epochs],
        "shared": ["--runs", "3"],
        "scoring": ["--backbone", VIT, "--prompts", "50", "--images", "256", "--repeats", "3"],
        "inference": ["--prompts", "50", "--repeats", "20", "--precision", "bf16"],
    }


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command lines by name."""
    tests = [
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        str(HERE.parent / "tests"),
    ]
    common = ["--device", args.device, "--results", str(args.results)]
    lines = {name: [str(HERE / f"{name}.py"), *common, *o] for name, o in plan(args.tiny).items()}
    return {**({} if args.tiny else {"tests": tests}), **lines}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="Smallest models; no tests.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="Folder of the JSON files.")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU: torch finds no CUDA device on this machine, so nothing was run")
    start, failed = time.monotonic(), []
    for name, line in commands(args).items():
        left = LIMIT - (time.monotonic() - start)
        print(f"\n{name}: python {' '.join(line)}", flush=True)
        try:
            done = subprocess.run([sys.executable, *line], timeout=None if args.tiny else left)
        except subprocess.TimeoutExpired:
            failed.append(f"{name} (not done after {LIMIT} s)")
        else:
            failed += [name] * (done.returncode != 0)
    print(f"\n{time.monotonic() - start:.0f} s; results are in {args.results}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
