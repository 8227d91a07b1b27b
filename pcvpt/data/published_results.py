"""The published facts in ``seeds/``, as others measured them."""

import csv
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside an installed package, or at the top of a checkout.
SEEDS = next(
    (p for p in (_PACKAGE / "seeds", _PACKAGE.parent / "seeds") if p.is_dir()), _PACKAGE / "seeds"
)


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of ``seeds/<name>.csv``, by the names of its columns."""
    lines = (SEEDS / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@cache
def accuracies(task: str) -> dict[str, float]:
    """Return the published test accuracy in percent on ``task`` by method, of ViT-B/16.

    The methods are full, linear, vpt_shallow and vpt_deep; see ``seeds/README.md``.
    """
    return {row["method"]: float(row[task]) for row in read_table("published")}
