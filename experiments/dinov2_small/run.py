"""Compare the methods on DINOv2 ViT-S/14 and the Grocery Store images (see ../compare.py).

python experiments/dinov2_small/run.py [SEED ...]
"""

import sys
from pathlib import Path

from prepare import prepare

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from compare import Comparison

if __name__ == "__main__":
    weights, images = prepare()
    Comparison(
        config=str(HERE / "grocery.yaml"),
        runs=Path("runs/dinov2_small"),
        results=HERE / "results.json",
        prompts=5,
        keeps=(0.1, 0.3, 0.5),
        linear_grid=(0.08,),  # the probe's own best on val
        options=("--model.pretrained", weights, "--data.init_args.root", images),
    ).run([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
