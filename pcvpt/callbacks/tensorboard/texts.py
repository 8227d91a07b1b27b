"""What the board says in words, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml


def card(
    config: str | None,
    identity: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    macs: int,
    trained: int,
    frozen: int,
) -> str:
    """Return what a run is: data, cost, and configuration.

    Args:
        config: the whole configuration in YAML, where there is a file of it.
        identity: what the model was asked to be.
        data: as ``ImageDataModule.describe`` returns it, for a task of ``pcvpt.data``.
        macs: multiply-accumulates of one image, with the prompts that the run begins with.
        trained: parameters that are trained.
        frozen: parameters that are not.
    """
    rows: list[tuple[str, str]] = []
    if data is not None:
        images = ", ".join(f"{split} {count:,}" for split, count in data["images"].items())
        rows += [("data", str(data["source"])), ("data hash", f"`{data['hash']}`")]
        rows += [("images", images), ("classes", str(data["classes"]))]
        rows += [("preprocessing", str(data["preprocessing"]))]
    rows += [
        ("multiply-accumulates per image", f"{macs / 1e6:,.1f} M"),
        ("trained parameters", f"{trained:,}"),
        ("frozen parameters", f"{frozen:,}"),
    ]
    text = yaml.safe_dump(dict(identity), sort_keys=False) if config is None else config
    return f"{_table(('this run', ''), rows)}\n\n```yaml\n{text.rstrip()}\n```\n"


def condensed(entry: Mapping[str, Any], report: Mapping[str, Any], epoch: int, step: int) -> str:
    """Return when prompts were condensed, and to what.

    Args:
        entry: the figures of one budget.
        report: those of the run.
        epoch: in which it is, counted from 0.
        step: before which it is.
    """
    kept: Sequence[int] = entry.get("kept", ())
    lines = [
        f"**Prompts were condensed at step {step:,}, before epoch {epoch}**: {sum(kept)} of "
        f"{report.get('prompts', '?')} are kept. Fine-tuning begins with a fresh optimizer."
    ]
    rows = [
        (what, f"{part[name]:.2f}{unit}")
        for what, name, part, unit in (
            ("validation accuracy with all prompts", "accuracy_before", report, " %"),
            ("with the kept ones, not fine-tuned", "accuracy_masked", entry, " %"),
            (
                "rank correlation of the scores by two halves of the data",
                "score_agreement",
                report,
                "",
            ),
        )
        if name in part
    ]
    lines += [_table(("measured", ""), rows)] if rows else []
    numbers = [str(number) for number in range(len(kept))]
    lines.append(_table(("block", *numbers), [("kept", *map(str, kept))]))
    budgets = [part for part in report.get("budgets", ()) if "kept" in part]
    if budgets:
        lines.append("All budgets so far:")
        lines.append(
            _table(
                ("budget", "kept", "accuracy before fine-tuning", *numbers),
                [
                    (
                        f"{part['keep']:g}",
                        str(sum(part["kept"])),
                        f"{part['accuracy_masked']:.2f} %",
                        *map(str, part["kept"]),
                    )
                    for part in budgets
                ],
            )
        )
    return "\n\n".join(lines)


def confused(found: Iterable[tuple[str, str, int, float]]) -> str:
    """Return a table of what :func:`pcvpt.analysis.figures.predictions.confusions` has found."""
    rows = [(a, b, str(count), f"{100 * share:.1f} %") for a, b, count, share in found]
    if not rows:
        return "No image of val was taken for another class."
    return _table(("class", "taken for", "images", "of the class"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
