"""Compare the methods on four sets of real images with the small ViT that ships.

    python experiments/real/run.py [TASK ...] [--seeds 0 1 2]

See ../compare.py for what is run, and README.md here for what came out.
"""

import argparse
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from compare import Comparison
from images import cifar_turned, fashion_turned, grocery

FOLDERS = {
    "fashion_mnist": None,
    "grocery": grocery,
    "fashion_turned": fashion_turned,
    "cifar_turned": cifar_turned,
}

SCORES = ("gate_batch", "gate_sample", "token_batch", "gradient_norm", "magnitude")


def comparison(task: str, runs: Path = Path("runs/real")) -> Comparison:
    """Return the comparison on ``task``."""
    folder = FOLDERS[task]
    root = () if folder is None else ("--data.init_args.root", folder())
    return Comparison(
        config=str(HERE / "common.yaml"),
        runs=runs / task,
        results=HERE / "results" / f"{task}.json",
        prompts=20,
        grid=(0.3, 1.0, 3.0),
        scratch_grid=(1.0, 3.0),
        linear_grid=(0.1, 0.3, 1.0, 3.0),
        finetune_grid=(0.3, 1.0),
        options=("--config", HERE / f"{task}.yaml", *root),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help=f"Tasks to run, of {', '.join(FOLDERS)}."
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)  # runs of different tasks may go side by side
    (HERE / "results").mkdir(exist_ok=True)
    for task in args.tasks or FOLDERS:
        comparison(task).run(args.seeds)
        comparison(task).compare_scores(args.seeds, SCORES, keeps=(0.1, 0.3))
