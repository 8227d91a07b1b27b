"""What was to be reached, beside what was: lines of a table of docs/cost.md."""

from collections.abc import Iterator
from typing import Any

from report import ratio, spread, told

Report = dict[str, Any]
_VIT, _SWIN = "vit_base_patch16_224", "swin_base_patch4_window7_224"
_NAMES = {_VIT: "ViT-B/16", _SWIN: "Swin-B"}
_NOTHING: Report = {"rows": [], "options": {}}


def goals(reports: dict[str, Report]) -> list[tuple[str, str, str]]:
    """Return (what, to be reached, measured) of all that was measured.

    Args:
        reports: Results of the benchmarks by ``<name>_<device>``.
    """
    cpu = {name: reports.get(f"{name}_cpu", _NOTHING) for name in ("step", "inference", "scoring")}
    of_large = reports.get("batch_32/step_cpu", _NOTHING)
    found = [
        *_steps(cpu["step"]),
        *_steps(of_large),
        *_inference(cpu["inference"]),
        *_scoring(cpu["scoring"]),
    ]
    if "merging_cpu" in reports:
        found += _merging(reports["merging_cpu"])
    if "fit_cpu" in reports:
        over = told(ratio(reports["fit_cpu"]["sides"], "epochs", "bare"), 3)
        found.append(("epoch of `trainer.fit` / bare loop", "at most 1.03", over))
    if "host_cpu" in reports:
        sides = reports["host_cpu"]["sides"]
        ours, bare = (1e3 * spread(sides[name]["seconds"])[0] for name in ("fit", "bare"))
        what = "processor time of the host in a training step beyond a bare loop, batch 64"
        found.append((what, "at most 5 ms", f"{ours - bare:.1f} ms"))
    found += _gpu_steps(reports.get("step_cuda", _NOTHING))
    if "task_cuda" in reports:
        whole = sum(reports["task_cuda"]["seconds"].values())
        found.append(("one VTAB-1k task on a GPU", "under 60 s", f"{whole:,.0f} s"))
    return found


def _steps(report: Report) -> Iterator[tuple[str, str, str]]:
    rows = {
        (row["backbone"], row["prompts"]): row["sides"]
        for row in report["rows"]
        if row["precision"] == "float32" and not row["compiled"] and "prefix" in row["sides"]
    }
    for key, limit in ((_VIT, 200), "2.2"), ((_VIT, 50), "1.25"), ((_SWIN, 50), "1.4"):
        if key in rows:
            sides = rows[key]
            forms = [name for name in ("release", "unfused") if name in sides]
            faster = min(forms, key=lambda name: spread(sides[name]["seconds"]))
            batch = report["rows"][0]["batch"]
            what = f"training step, {_NAMES[key[0]]}, {key[1]} prompts, batch {batch}: "
            what += "published form / ours"
            yield what, f"at least {limit}", told(ratio(sides, faster, "prefix"))
    sides = rows.get((_VIT, 200), {})
    if "held_per_image" in sides.get("release", {}):
        share = sides["prefix"]["held_per_image"] / sides["release"]["held_per_image"]
        what = "held for backward for each image, ViT-B/16, 200 prompts: ours / published form"
        yield what, "at most 0.6", f"{share:.2f}"


def _inference(report: Report) -> Iterator[tuple[str, str, str]]:
    options = report["options"]
    if (options.get("backbone"), options.get("prompts")) != (_VIT, 200):
        return
    rows = [row for row in report["rows"] if {"timm", "release", "frozen"} <= row["sides"].keys()]
    for what, limit, pair in (
        ("published form / ours", "at least 2.1", ("release", "frozen")),
        ("ours / without prompts", "at most 1.0", ("frozen", "timm")),
    ):
        found = (f"batch {row['batch']}: {told(ratio(row['sides'], *pair))}" for row in rows)
        yield f"inference, ViT-B/16, 200 prompts, frozen: {what}", limit, "; ".join(found)


def _scoring(report: Report) -> Iterator[tuple[str, str, str]]:
    spreads = [ratio(row["sides"], "scoring", "epoch") for row in report["rows"]]
    if spreads:
        yield "scoring pass / training epoch, the largest", "at most 1.1", told(max(spreads))


def _merging(report: Report) -> Iterator[tuple[str, str, str]]:
    if (report["options"]["backbone"], report["options"]["prompts"]) != (_VIT, 200):
        return
    taken = told(spread(report["sides"]["merges"]["seconds"]), 1)
    what = f"merging 12 x 200 prompts, beyond both passes, {report['hardware']['threads']} threads"
    yield what, "at most 20 s", f"{taken} s"
    ratios = (
        f"batch {row['batch']}: {told(ratio(row['sides'], 'merged', 'plain'), 3)}"
        for row in report["rows"]
    )
    yield (
        "inference, frozen: merged prompts / as many plain ones",
        "at most 1.02",
        "; ".join(ratios),
    )


def _gpu_steps(report: Report) -> Iterator[tuple[str, str, str]]:
    for row in report["rows"]:
        if row["precision"] == "bf16" and row["compiled"] and "prefix" in row["sides"]:
            side, name = row["sides"]["prefix"], _NAMES.get(row["backbone"], row["backbone"])
            over = spread(side["seconds"])[0] * row["peak_macs_per_s"] / side["macs"]
            what = f"step on a GPU, bf16, compiled, batch {row['batch']}, {name}, {row['prompts']}"
            yield f"{what} prompts: over its arithmetic floor", "at most 1.6", f"{over:.2f}"
