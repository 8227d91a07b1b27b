"""Draw the figures of the page "Method" into docs/images.

    python docs/figures/draw.py

Their data are ``demo.json`` (``measure.py`` names the run), Table 1 of the paper in
``seeds/gflops.csv``, and the counts of ``pcvpt.analysis.cost``. The first figure is a drawing.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diagram import forms
from matplotlib.figure import Figure

from pcvpt import create_model
from pcvpt.analysis.cost import bare_cost, condensed_cost, prefix_cost, tokens_cost
from pcvpt.analysis.figures.style import COLOURS, QUIET, house_style, panels

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IMAGES = HERE.parent / "images"
COUNTS = (10, 50, 100, 150, 200)
BLUE, RED, GREEN = COLOURS[:3]


def cost(_: dict[str, Any]) -> Figure:
    """Draw the multiply-accumulates of a ViT-B/16 over the number of prompts."""
    lines: dict[str, list[float]] = {
        "all, as tokens": [],
        "all, as keys and values": [],
        "30 % kept, as keys and values": [],
    }
    for count in COUNTS:
        with torch.device("meta"):
            model = create_model("vit_base_patch16_224", 1000, count, pretrained=False)
        kept = condensed_cost(model, [round(0.3 * count)] * 12)
        for name, part in zip(lines, (tokens_cost(model), prefix_cost(model), kept), strict=True):
            lines[name].append((part.macs - part.shared) / 1e9)
        bare = bare_cost(model).macs / 1e9
    figure, (axes,) = panels()
    for (name, values), colour in zip(lines.items(), (RED, BLUE, GREEN), strict=True):
        axes.plot(COUNTS, values, color=colour, label=name)
    axes.plot(*_published(), "x", color=COLOURS[-1], label="Kim et al., Table 1")
    axes.axhline(bare, color=QUIET, linestyle="--", label="without prompts")
    axes.set(xlabel="prompts per block", ylabel="multiply-accumulates, 10⁹", ylim=(0, None))
    axes.legend()
    return figure


def run(demo: dict[str, Any]) -> Figure:
    """Draw validation accuracy over the two phases."""
    figure, (axes,) = panels(width=6)
    before, after = demo["epochs"]["prompt"], demo["epochs"]["finetune"]
    masked = _budget(demo, 0.3)["accuracy_masked"]
    change = before[-1][0]
    first = after[0][0] - after[0][0] % 10  # fine-tunings of other fractions came before
    axes.plot(*zip(*before, strict=True), "o-", color=BLUE, label="all 120 prompts")
    tuned = [[change, masked], *([change + epoch - first, value] for epoch, value in after)]
    axes.plot(*zip(*tuned, strict=True), "o-", color=GREEN, label="36 prompts, fine-tuned")
    axes.annotate(
        "right after masking",
        (change, masked),
        (change + 1.5, masked),
        va="center",
    )
    axes.axvline(change, color=QUIET, linestyle="--", linewidth=1)
    axes.set(xlabel="epoch", ylabel="validation accuracy, %", xlim=(0, 52))
    axes.legend(loc="upper left")
    return figure


def scores(demo: dict[str, Any]) -> Figure:
    """Draw the score of each prompt, and the number of kept prompts of each block."""
    values, keep = torch.tensor(demo["scores"]), torch.tensor(demo["keep"])
    order = values.argsort(dim=1, descending=True)
    values, keep = values.gather(1, order), keep.gather(1, order)
    figure, (left, right) = panels(columns=2, width=3.9)
    image = left.imshow(values.log10(), aspect="auto", cmap="Blues")
    for block, row in enumerate(keep.tolist()):
        places = [place for place, kept in enumerate(row) if kept]
        left.plot(places, [block] * len(places), "o", color=RED, markersize=3)
    left.grid(False)
    left.set(xlabel="prompts of a block, by score", ylabel="block", title="Scores; dots are kept")
    figure.colorbar(image, ax=left, label="log₁₀ of the score")
    right.barh(range(len(keep)), keep.sum(dim=1), color=GREEN)
    right.set(xlabel="prompts kept, of 20", ylabel="block", xlim=(0, 20), title="Kept, 36 in all")
    right.invert_yaxis()
    return figure


def budgets(demo: dict[str, Any]) -> Figure:
    """Draw accuracy over the kept fraction, right after masking and fine-tuned."""
    figure, (axes,) = panels()
    kept = [100 * row["keep"] for row in demo["budgets"]]
    sides = {"accuracy_finetuned": ("fine-tuned", GREEN), "accuracy_masked": ("masked only", RED)}
    for key, (name, colour) in sides.items():
        axes.plot(kept, [row[key] for row in demo["budgets"]], "o-", color=colour, label=name)
    everything = demo["accuracy_before"]
    axes.axhline(everything, color=QUIET, linestyle="--", label="all prompts")
    axes.set(xlabel="prompts kept, %", ylabel="validation accuracy, %", xlim=(0, 100))
    axes.legend(loc="lower right")
    return figure


def _budget(demo: dict[str, Any], keep: float) -> dict[str, Any]:
    return next(row for row in demo["budgets"] if row["keep"] == keep)


def _published() -> tuple[list[int], list[float]]:
    lines = (ROOT / "seeds" / "gflops.csv").read_text(encoding="utf-8").split("\n")
    rows = csv.DictReader(line for line in lines if line and not line.startswith("#"))
    row = next(r for r in rows if (r["backbone"], r["source"]) == ("vit_b16", "published"))
    points = {int(k): float(v) for k, v in row.items() if k.isdigit() and v}
    return list(points), list(points.values())


FIGURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "method-forms": forms,
    "method-cost": cost,
    "method-run": run,
    "method-scores": scores,
    "method-budgets": budgets,
}


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    measured = json.loads((HERE / "demo.json").read_text())
    for name, draw in FIGURES.items():
        with house_style():
            draw(measured).savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
