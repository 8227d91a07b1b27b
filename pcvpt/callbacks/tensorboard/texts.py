"""Texts of the page, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from torch import Tensor


def run_text(
    config: str | None,
    identity: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    macs: int | None,
    trained: int,
    frozen: int,
) -> str:
    """Return a description of a run: data, cost, number of parameters, and configuration.

    Without ``config``, a text in YAML, the options of the model in ``identity`` take its place.
    """
    rows: dict[str, Any] = {}
    if data is not None:
        rows = {"data": data["source"], "data hash": f"`{data['hash']}`"}
        rows["images"] = ", ".join(f"{split} {n:,}" for split, n in data["images"].items())
        rows |= {name: data[name] for name in ("classes", "preprocessing")}
    if macs is not None:
        rows["multiply-accumulates per image"] = f"{macs / 1e6:,.1f} M"
    rows |= {"trained parameters": f"{trained:,}", "frozen parameters": f"{frozen:,}"}
    text = yaml.safe_dump(dict(identity), sort_keys=False) if config is None else config
    return f"{_table(('this run', ''), rows.items())}\n\n```yaml\n{text.rstrip()}\n```\n"


def condensed_text(
    entry: Mapping[str, Any], report: Mapping[str, Any], epoch: int, step: int
) -> str:
    """Return when the prompts were condensed, and how many the budget of ``entry`` leaves."""
    kept: Sequence[int] = entry.get("kept", ())
    lines = [
        f"**Prompts were condensed at step {step:,}, before epoch {epoch}**: {sum(kept)} of "
        f"{report.get('prompts', '?')} are left. Fine-tuning begins with a fresh optimizer."
    ]
    rows = [
        (text, f"{part[k]:.2f}{unit}")
        for part, k, unit, text in (
            (report, "accuracy_before", " %", "validation accuracy with all prompts"),
            (entry, "accuracy_masked", " %", "with those that are left, not fine-tuned"),
            (report, "score_agreement", "", "rank correlation of scores by two halves of the data"),
        )
        if k in part
    ]
    lines += [_table(("measured", ""), rows)] if rows else []
    lines.append(_table(("block", *range(len(kept))), [("left", *kept)]))
    budgets = [
        (f"{x['keep']:g}", sum(x["kept"]), f"{x['accuracy_masked']:.2f} %", *x["kept"])
        for x in report.get("budgets", ())
        if "kept" in x
    ]
    if budgets:
        header = ("budget", "left", "accuracy before fine-tuning", *range(len(kept)))
        lines += ["All budgets so far:", _table(header, budgets)]
    return "\n\n".join(lines)


def confusions_text(counts: Tensor, class_names: Sequence[str], most: int = 15) -> str:
    """Return a table of the ``most`` frequent confusions.

    The numbers of images ``(k, k)`` are by class (row) and prediction (column).
    """
    wrong = counts.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:most].tolist()
    rows = []
    for label, guess in (divmod(place, len(counts)) for place in order):
        if images := int(wrong[label, guess]):
            share = f"{100 * images / int(counts[label].sum()):.1f} %"
            rows.append((class_names[label], class_names[guess], images, share))
    if not rows:
        return "No image of val was taken for another class."
    return _table(("class", "taken for", "images", "of the class"), rows)


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        return str(value).replace("|", "\\|").replace("\n", " ")

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)
