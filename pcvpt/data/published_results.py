"""The published results in ``seeds/``, as others measured them."""

import csv
from functools import cache

from pcvpt.runs.folder import shipped


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of ``seeds/<name>.csv``, each as a dict from column to value."""
    lines = (shipped("seeds") / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@cache
def accuracies(task: str) -> dict[str, float]:
    """Return the published test accuracy of ViT-B/16 on ``task`` in percent, by method.

    The methods are full, linear, vpt_shallow and vpt_deep; see ``seeds/README.md``.
    """
    return {row["method"]: float(row[task]) for row in read_table("published")}
