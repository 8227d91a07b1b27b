r"""Write the data of the figures of the page "Method" into ``demo.json`` beside this file.

pcvpt fit --config demo.yaml --condense.method prune \
    --condense.keep '[0.05,0.1,0.2,0.3,0.5,0.75]' --name figures
python docs/figures/measure.py runs/figures/version_0
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch

TO = Path(__file__).with_name("demo.json")
SHOWN = "0.3"  # the fraction whose mask and fine-tuning the figures show


def taken(run: Path) -> dict[str, Any]:
    """Return what the figures need from the run in the folder ``run``."""
    results = json.loads((run / "results.json").read_text())
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/accuracy"]]
    phases = {"prompt": rows, "finetune": [row for row in rows if row["budget"] == SHOWN]}
    path = run / "checkpoints" / f"masked_{SHOWN}.ckpt"
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    start = json.loads((run / "environment.json").read_text())["starts"][0]
    return {
        "command": ["pcvpt", *start["command"][1:]],
        "versions": {name: start["versions"][name] for name in ("torch", "timm")},
        "accuracy_before": results["accuracy_before"],
        "val_images": results["data"]["images"]["val"],
        "epochs": {
            phase: [
                [int(row["epoch"]) + 1, round(100 * float(row["val/accuracy"]), 2)]
                for row in of
                if row["phase"] == phase
            ]
            for phase, of in phases.items()
        },
        "budgets": results["budgets"],
        "scores": state["model.prompts.scores"].tolist(),
        "keep": state["model.prompts.keep"].tolist(),
    }


if __name__ == "__main__":
    TO.write_text(json.dumps(taken(Path(sys.argv[1]))) + "\n")
