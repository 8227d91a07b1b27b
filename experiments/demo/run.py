"""Compare the methods on the demo's backbone and images (see ../compare.py).

python experiments/demo/run.py [SEED ...]
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from compare import Comparison

if __name__ == "__main__":
    Comparison(
        config="demo.yaml",
        runs=Path("runs/demo_seeds"),
        results=HERE / "results.json",
        prompts=20,
        keeps=(0.3,),
        linear_grid=(0.3,),  # the probe's own best on val
    ).run([int(seed) for seed in sys.argv[1:]] or [0, 1, 2, 3, 4])
