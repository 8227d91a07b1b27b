"""Draw the figure of this folder; write the tables of its README and of docs/pages/results.md.

    python experiments/merging/report.py           # after run.py
    python experiments/merging/report.py --check   # exits with 1 where a page says something else

A table is between ``<!-- merging: BACKBONE NAME -->`` and ``<!-- end -->``.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t

from pcvpt.analysis.figures.style import COLOURS, QUIET, house_style, panels, save_figure

HERE = Path(__file__).resolve().parent
PAGES = (HERE / "README.md", HERE.parents[1] / "docs" / "pages" / "results.md")
KEEPS = (0.05, 0.1, 0.2, 0.3, 0.5)
TITLES = {
    "fashion": "Fashion-MNIST",
    "grocery": "Grocery Store",
    "fashion_turned": "Fashion turned",
    "cifar_turned": "CIFAR-10 turned",
    "objects_turned": "80 objects, turned",
    "cifar": "CIFAR-10",
}
STARTS = [
    *(f"deep, vpt head, {prompts} prompts" for prompts in ("uniform", "tokens")),
    *("deep, zero head, uniform prompts", "deep"),
]
PROBE = "linear probe"
ALL = [PROBE, f"{PROBE}, 224 px", "shallow", "deep", "prefix"]
TRAINED_ON = ["deep, all trained on as token", "deep, all trained on as key_value"]
_BLOCK = re.compile(r"(<!-- merging: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
BySeed = dict[str, float]
SUMMARY = {
    PROBE: "linear probe, trained to its end",
    f"{PROBE}, 224 px": "the same at 224 px, one seed",
    "shallow": "VPT-Shallow",
    "deep": "VPT-Deep, all prompts",
    "prefix": "visual prefix tuning, all prompts",
    TRAINED_ON[0]: "VPT-Deep, trained on as long as the fine-tuning",
    "deep, merge 0.3 as key_value, nothing trained": "30 % merged, nothing trained",
    "deep, prune 0.3, nothing trained": "30 % pruned, nothing trained",
    "deep, merge 0.1 as key_value, nothing trained": "10 % merged, nothing trained",
    "deep, prune 0.1, nothing trained": "10 % pruned, nothing trained",
    "deep, random 0.1, nothing trained": "10 % at random, nothing trained",
    **{
        f"deep, {method} 0.1, fine-tuned as {form}": f"10 % {name}, fine-tuned as {told}"
        for form, told in (("key_value", "keys and values"), ("token", "tokens"))
        for method, name in (("merge", "merged"), ("prune", "pruned"), ("random", "at random"))
    },
    "deep from scratch 0.1": "10 % from scratch, tokens",
    "prefix from scratch 0.1": "10 % from scratch, keys and values",
}
# The lines of the figure: pattern, colour, style.
LINES = {
    "merged, nothing trained": ("deep, merge {} as key_value, nothing trained", COLOURS[0], "o-"),
    "pruned, nothing trained": ("deep, prune {}, nothing trained", COLOURS[1], "o-"),
    "random, nothing trained": ("deep, random {}, nothing trained", QUIET, "o-"),
    "merged, fine-tuned": ("deep, merge {}, fine-tuned as key_value", COLOURS[0], "s--"),
    "pruned, fine-tuned": ("deep, prune {}, fine-tuned as token", COLOURS[1], "s--"),
    "from scratch, tokens": ("deep from scratch {}", COLOURS[2], "d:"),
    "from scratch, keys and values": ("prefix from scratch {}", COLOURS[3], "*"),
}


def methods(part: str) -> list[str]:
    """Return the methods of the rows of a table."""
    if part == "starts":
        return STARTS
    if part == "all":
        return ALL + TRAINED_ON
    if part == "summary":
        return list(SUMMARY)
    ways = ("prune {}", "random {}", "merge {} as key_value", "merge {} as token")
    if part == "cut":
        return [f"deep, {way.format(k)}, nothing trained" for k in KEEPS for way in ways]
    tuned = [
        f"deep, {way} {keep}, fine-tuned as {form}"
        for keep in KEEPS
        for form in ("token", "key_value")
        for way in ("prune", "random", "merge")
    ]
    return [*tuned, *(f"{mode} from scratch {k}" for mode in ("deep", "prefix") for k in KEEPS)]


# Paired differences within the same seed: (name, first, second).
PAIRS = [
    ("deep - probe", "deep", "linear probe"),
    *(
        (f"{keep:.0%} merged - all", f"deep, merge {keep} as key_value, nothing trained", "deep")
        for keep in KEEPS
    ),
    *(
        (
            f"{keep:.0%} merged - pruned",
            f"deep, merge {keep} as key_value, nothing trained",
            f"deep, prune {keep}, nothing trained",
        )
        for keep in KEEPS
    ),
    *(
        (
            f"{keep:.0%} merged - {other}, both fine-tuned as {form}",
            f"deep, merge {keep}, fine-tuned as {form}",
            second.format(keep=keep, form=form),
        )
        for keep in KEEPS
        for form in ("token", "key_value")
        for other, second in (
            ("pruned", "deep, prune {keep}, fine-tuned as {form}"),
            ("random", "deep, random {keep}, fine-tuned as {form}"),
            ("all trained on", "deep, all trained on as {form}"),
        )
    ),
    *(
        (
            f"{keep:.0%} merged, fine-tuned as key_value - from scratch as {form}",
            f"deep, merge {keep}, fine-tuned as key_value",
            f"{mode} from scratch {keep}",
        )
        for mode, form in (("deep", "token"), ("prefix", "key_value"))
        for keep in KEEPS
    ),
]


def load(backbone: str) -> dict[str, dict[str, Any]]:
    """Return the results of each set of ``backbone`` whose prompts have been trained."""
    files = {name: HERE / "results" / backbone / f"{name}.json" for name in TITLES}
    found = {n: json.loads(file.read_text()) for n, file in files.items() if file.is_file()}
    return {name: results for name, results in found.items() if "deep" in results["test"]}


def mean(values: Sequence[float]) -> str:
    """Return mean ± standard deviation, and the number of seeds where it is below three."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    few = f" ({len(values)})" if len(values) < 3 else ""
    return f"{statistics.mean(values):.1f}{spread}{few}"


def difference(first: BySeed, second: BySeed) -> str:
    """Return the mean difference of equal seeds, with its 95 % confidence interval by Student."""
    gaps = [first[seed] - second[seed] for seed in first if seed in second]
    if not gaps:
        return "-"
    if len(gaps) == 1:
        return f"{gaps[0]:+.1f} (1)"
    half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return f"{statistics.mean(gaps):+.1f} ± {half:.1f}"


def table(backbone: str, part: str) -> str:
    """Return a table in Markdown."""
    found = load(backbone)
    if not found:
        return "Not run yet.\n"
    if part == "means":
        return means(backbone)
    head = ["test accuracy, %" if part != "pairs" else "points", *(TITLES[name] for name in found)]
    lines = [head, ["---"] * len(head)]
    tests = [results["test"] for results in found.values()]
    if part == "pairs":
        for name, first, second in PAIRS:
            lines.append([name, *(difference(x.get(first, {}), x.get(second, {})) for x in tests)])
    else:
        for name in methods(part):
            row = SUMMARY.get(name, name) if part == "summary" else name
            lines.append([row, *(mean(list(x.get(name, {}).values())) for x in tests)])
    rows = [line for line in lines if set(line[1:]) != {"-"}]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def means(backbone: str) -> str:
    """Return the paired differences of the mean over all sets, as a table in Markdown."""
    tests = [results["test"] for results in load(backbone).values()]
    rows = [["points", f"mean of {len(tests)} sets", "seeds"], ["---"] * 3]
    for name, first, second in PAIRS:
        by_set = [(test.get(first, {}), test.get(second, {})) for test in tests]
        seeds = sorted(set.intersection(*(a.keys() & b.keys() for a, b in by_set)))
        gaps = {seed: statistics.mean(a[seed] - b[seed] for a, b in by_set) for seed in seeds}
        if gaps:
            rows.append([name, difference(gaps, dict.fromkeys(gaps, 0.0)), str(len(gaps))])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def over_sets(tests: Sequence[dict[str, BySeed]], name: str) -> list[float]:
    """Return the mean over sets of ``name``, one for each seed that all of them have."""
    found = [test.get(name, {}) for test in tests]
    seeds = set.intersection(*map(set, found))
    return [statistics.mean(values[seed] for values in found) for seed in sorted(seeds)]


def draw() -> None:
    """Draw accuracy over kept prompts: the mean of the sets of the small ViT, and DINOv2's sets."""
    small, dinov2 = load("small"), load("dinov2")
    shown = {f"small ViT, mean of {len(small)} sets": list(small.values())} if small else {}
    shown |= {f"DINOv2 ViT-S/14, {TITLES[name]}": [one] for name, one in dinov2.items()}
    with house_style():
        figure, axes = panels(len(shown), width=3.7, height=3.5)
        for (title, found), axis in zip(shown.items(), axes, strict=True):
            tests = [results["test"] for results in found]
            for label, (pattern, colour, style) in LINES.items():
                values = [(100 * keep, over_sets(tests, pattern.format(keep))) for keep in KEEPS]
                values = [(x, y) for x, y in values if y]
                x, y = [x for x, _ in values], [statistics.mean(y) for _, y in values]
                spread = [statistics.stdev(y) if len(y) > 1 else 0.0 for _, y in values]
                axis.errorbar(x, y, spread, fmt=style, color=colour, label=label, capsize=2)
            for label, name, style in (
                ("all prompts", "deep", "-"),
                ("probe", "linear probe", ":"),
            ):
                whole = statistics.mean(over_sets(tests, name))
                axis.axhline(whole, color="black", linewidth=1, linestyle=style, label=label)
            axis.set(title=title, xlabel="prompts kept, %", ylabel="test accuracy, %", xscale="log")
            ticks = [round(100 * keep) for keep in KEEPS]
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        (HERE / "figures").mkdir(exist_ok=True)
        save_figure(figure, HERE / "figures" / "curve")


def main() -> int:
    """Write the tables and the figure, or compare the tables with the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for page in PAGES:
        before = page.read_text()
        after = _BLOCK.sub(lambda m: f"{m[1]}{table(m[2], m[3])}{m[4]}", before)
        if check and before != after:
            return 1
        page.write_text(after)
    if not check:
        draw()
    return 0


if __name__ == "__main__":
    sys.exit(main())
