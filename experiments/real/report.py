"""Draw the figure of this folder; write the tables of its README.

    python experiments/real/report.py
    python experiments/real/report.py --check   # exits with 1 where a page says something else

All is from ``results/*.json``. A table stands between ``<!-- real: NAME -->`` and ``<!-- end -->``.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcvpt.analysis.figures.style import COLOURS, QUIET, house_style, panels, save_figure

HERE = Path(__file__).resolve().parent
PAGE = HERE / "README.md"
TASKS = {
    "fashion_mnist": "Fashion-MNIST",
    "grocery": "Grocery Store",
    "fashion_turned": "Fashion-MNIST turned",
    "cifar_turned": "CIFAR-10 turned",
}
SCORES = (
    *("gate", "gate_batch", "gate_sample", "token_batch"),
    *("gradient_norm", "magnitude", "random"),
)
KEEPS = (0.1, 0.2, 0.3, 0.5)
SERIES = {
    "gate, fine-tuned": ("gate {}, fine-tuned", COLOURS[0], "o-"),
    "random, fine-tuned": ("random {}, fine-tuned", COLOURS[4], "s-"),
    "from scratch": ("from scratch {}", COLOURS[2], "^-"),
    "gate_sample, fine-tuned": ("gate_sample {}, fine-tuned", COLOURS[1], "D-"),
    "gate, masked only": ("gate {}, masked", COLOURS[0], "o:"),
    "random, masked only": ("random {}, masked", COLOURS[4], "s:"),
}
_BLOCK = re.compile(r"(<!-- real: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

BySeed = Mapping[str, float]
Results = dict[str, dict[str, dict[str, Any]]]


def load() -> dict[str, Results]:
    """Return the results of each task that has been run."""
    files = {task: HERE / "results" / f"{task}.json" for task in TASKS}
    return {task: json.loads(file.read_text()) for task, file in files.items() if file.is_file()}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation; 0 for a single value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def told(by_seed: BySeed | None) -> str:
    """Return mean ± deviation over seeds."""
    if not by_seed:
        return "-"
    mean, deviation = spread(list(by_seed.values()))
    return f"{mean:.1f} ± {deviation:.1f}"


def difference(first: BySeed, second: BySeed) -> str:
    """Return mean ± deviation of ``first`` - ``second`` of the same seed."""
    values = [first[seed] - second[seed] for seed in first if seed in second]
    if not values:
        return "-"
    mean, deviation = spread(values)
    return f"{mean:+.1f} ± {deviation:.1f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def accuracies(found: dict[str, Results]) -> str:
    """Return test accuracy of each method."""
    methods = [
        *("linear probe", "VPT-Shallow", "VPT-Deep", "VPT-Deep, trained on"),
        *(
            pattern.format(f"{keep:.0%}")
            for name, (pattern, *_) in SERIES.items()
            for keep in KEEPS
            if "gate_sample" not in name  # has a table of its own
        ),
    ]
    rows = [
        [method, *(told(results["test"].get(method)) for results in found.values())]
        for method in methods
    ]
    return markdown(["test accuracy, %", *(TASKS[task] for task in found)], rows)


def claims(found: dict[str, Results]) -> str:
    """Return the differences that the claims are about, seed by seed."""
    pairs = {
        "VPT-Deep - linear probe": ("VPT-Deep", "linear probe"),
        "VPT-Shallow - linear probe": ("VPT-Shallow", "linear probe"),
        **{
            f"{a} {keep:.0%}, fine-tuned - {name}": (f"{a} {keep:.0%}, fine-tuned", b)
            for keep in KEEPS
            for a, b, name in (
                ("gate", "VPT-Deep", "VPT-Deep"),
                ("gate", "VPT-Deep, trained on", "VPT-Deep, trained on"),
                ("gate", f"random {keep:.0%}, fine-tuned", "random, fine-tuned"),
                ("gate", f"from scratch {keep:.0%}", "from scratch"),
            )
        },
        **{
            f"gate_sample {keep:.0%}, fine-tuned - {name}": (
                f"gate_sample {keep:.0%}, fine-tuned",
                other,
            )
            for keep in (0.1, 0.3)
            for name, other in (
                ("VPT-Deep, trained on", "VPT-Deep, trained on"),
                ("gate, fine-tuned", f"gate {keep:.0%}, fine-tuned"),
                ("random, fine-tuned", f"random {keep:.0%}, fine-tuned"),
                ("from scratch", f"from scratch {keep:.0%}"),
            )
        },
        **{
            f"gate {keep:.0%}, masked - random, masked": (
                f"gate {keep:.0%}, masked",
                f"random {keep:.0%}, masked",
            )
            for keep in KEEPS
        },
    }
    rows = [
        [name, *(difference(r["test"].get(a, {}), r["test"].get(b, {})) for r in found.values())]
        for name, (a, b) in pairs.items()
    ]
    return markdown(["points, same seed", *(TASKS[task] for task in found)], rows)


def rates(found: dict[str, Results]) -> str:
    """Return the learning rate (``base_lr``) of each method, of those tried."""
    methods = dict.fromkeys(name for results in found.values() for name in results["search"])
    rows = []
    for method in methods:
        cells = []
        for results in found.values():
            tried = results["search"].get(method, {})
            best = max(sorted(tried, key=float), key=lambda rate: tried[rate], default="-")
            cells.append(f"{best} of {', '.join(tried)}" if tried else "-")
        rows.append([method, *cells])
    return markdown(["base_lr, best on val", *(TASKS[task] for task in found)], rows)


def kept(found: dict[str, Results]) -> str:
    """Return how many prompts each block keeps, by the gate, mean over seeds."""
    rows = []
    for keep in KEEPS:
        cells = []
        for results in found.values():
            by_seed = results["kept"].get(f"gate {keep:.0%}", {}).values()
            means = [statistics.mean(block) for block in zip(*by_seed, strict=True)]
            cells.append(" ".join(f"{mean:.1f}" for mean in means) or "-")
        rows.append([f"{keep:.0%}", *cells])
    return markdown(["kept per block, of 20", *(TASKS[task] for task in found)], rows)


def scores(found: dict[str, Results]) -> str:
    """Return test accuracy by score, right after masking and after the same fine-tuning."""
    rows = [
        [
            f"{keep:.0%}, {score}",
            *(
                " / ".join(
                    told(results["test"].get(f"{score} {keep:.0%}, {stage}"))
                    for stage in ("masked", "fine-tuned")
                )
                for results in found.values()
            ),
        ]
        for keep in (0.1, 0.3)
        for score in SCORES
    ]
    return markdown(["masked / fine-tuned", *(TASKS[task] for task in found)], rows)


def draw(found: dict[str, Results]) -> None:
    """Draw accuracy over kept prompts, a panel for each task."""
    with house_style():
        figure, axes = panels(2, -(-len(found) // 2), width=4.6, height=3.4)
        for (task, results), axis in zip(found.items(), axes, strict=False):
            test = results["test"]
            for label, (pattern, colour, line) in SERIES.items():
                points = [(k, test.get(pattern.format(f"{k:.0%}"))) for k in KEEPS]
                shown = [(k, *spread(list(p.values()))) for k, p in points if p]
                if not shown:
                    continue
                x, mean, deviation = (list(column) for column in zip(*shown, strict=True))
                x = [100 * share for share in x]
                axis.plot(x, mean, line, color=colour, label=label)
                low, high = (
                    [m + s * d for m, d in zip(mean, deviation, strict=True)] for s in (-1, 1)
                )
                axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            whole, _ = spread(list(test["VPT-Deep, trained on"].values()))
            probe, _ = spread(list(test["linear probe"].values()))
            axis.axhline(whole, color="black", linewidth=1, label="all prompts, trained on")
            axis.axhline(
                whole - 1, color="black", linewidth=0.8, linestyle="--", label="1 point below"
            )
            axis.axhline(probe, color=QUIET, linewidth=1, label="linear probe")
            axis.set(
                title=TASKS[task],
                xlabel="prompts kept, % of 120",
                ylabel="test accuracy, %",
                xticks=[100 * keep for keep in KEEPS],
            )
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        (HERE / "figures").mkdir(exist_ok=True)
        save_figure(figure, HERE / "figures" / "curve")


TABLES: dict[str, Callable[[dict[str, Results]], str]] = {
    "accuracies": accuracies,
    "claims": claims,
    "rates": rates,
    "kept": kept,
    "scores": scores,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    found = load()
    text = PAGE.read_text()
    new = _BLOCK.sub(lambda m: m[1] + TABLES[m[2]](found) + m[3], text)
    if check and new != text:
        return 1
    PAGE.write_text(new)
    if not check:
        draw(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
