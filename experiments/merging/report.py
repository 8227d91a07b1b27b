"""Write the tables of README.md here from results/*/*.json.

    python experiments/merging/report.py           # after run.py
    python experiments/merging/report.py --check   # exits with 1 where the page says something else

A table stands between ``<!-- merging: NAME -->`` and ``<!-- end -->``.
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

HERE = Path(__file__).resolve().parent
PAGE = HERE / "README.md"
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
ALL = ["linear probe", "shallow", "deep", "prefix"]
TRAINED_ON = ["deep, all trained on as token", "deep, all trained on as key_value"]
_BLOCK = re.compile(r"(<!-- merging: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
BySeed = dict[str, float]


def methods(part: str) -> list[str]:
    """Return the methods of the rows of a table."""
    if part == "starts":
        return STARTS
    if part == "all":
        return ALL + TRAINED_ON
    ways = ("prune {}", "random {}", "merge {} as key_value", "merge {} as token")
    if part == "cut":
        return [f"deep, {way.format(k)}, nothing trained" for k in KEEPS for way in ways]
    tuned = [
        f"deep, {way} {keep}, fine-tuned as {form}"
        for keep in KEEPS
        for form in ("token", "key_value")
        for way in ("prune", "random", "merge")
    ]
    return [*tuned, "deep from scratch 0.1", "deep from scratch 0.3"]


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
            ("all trained on", "deep, all trained on as {form}"),
        )
    ),
    *(
        (
            f"{keep:.0%} merged, fine-tuned as key_value - from scratch",
            f"deep, merge {keep}, fine-tuned as key_value",
            f"deep from scratch {keep}",
        )
        for keep in (0.1, 0.3)
    ),
]


def load(backbone: str) -> dict[str, dict[str, Any]]:
    """Return the results of each set of ``backbone`` that has any."""
    files = {name: HERE / "results" / backbone / f"{name}.json" for name in TITLES}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


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
    head = ["test accuracy, %" if part != "pairs" else "points", *(TITLES[name] for name in found)]
    lines = [head, ["---"] * len(head)]
    tests = [results["test"] for results in found.values()]
    if part == "pairs":
        for name, first, second in PAIRS:
            lines.append([name, *(difference(x.get(first, {}), x.get(second, {})) for x in tests)])
    else:
        for name in methods(part):
            lines.append([name, *(mean(list(x.get(name, {}).values())) for x in tests)])
    rows = [line for line in lines if set(line[1:]) != {"-"}]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    """Write the tables, or compare them with the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    before = PAGE.read_text()
    after = _BLOCK.sub(lambda m: f"{m[1]}{table(m[2], m[3])}{m[4]}", before)
    if not check:
        PAGE.write_text(after)
    return int(check and before != after)


if __name__ == "__main__":
    sys.exit(main())
