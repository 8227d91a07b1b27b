"""Write the measured tables of the documentation from the JSON in ``benchmarks/results``.

    python benchmarks/tables.py           # after a benchmark has been run
    python benchmarks/tables.py --check   # exits with 1 where a page does not say what JSON says

A table stands between ``<!-- measured: NAME -->`` and ``<!-- end -->``.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from formulas import SWIN_B, VIT_B16, Cost
from goals import goals
from report import RESULTS, on, ratio, spread, told

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "docs" / "cost.md",
    *(ROOT / f"docs/pages/{n}.md" for n in ("measurements", "ship")),
)
_BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NAMES = {"vit_base_patch16_224": "ViT-B/16", "swin_base_patch4_window7_224": "Swin-B"}
_STEP_SIDES = {
    "release": "prompts as tokens, fused",
    "unfused": "prompts as tokens, as published",
    "tokens": "our `tokens`",
    "full": "full fine-tuning",
    "linear": "linear probe",
}
_INFERENCE_SIDES = {
    "timm": "backbone without prompts",
    "release": "prompts as tokens",
    "prefix": "`prefix`",
    "condensed": "`prefix`, condensed to 30 %",
    "frozen": "frozen",
    "frozen condensed": "frozen, condensed",
    "exported": "the same, exported",
    "AOTInductor": "the same, compiled ahead of time",
    "ONNX Runtime": "the same, in ONNX Runtime",
}

# Of the estimate for an H100, which docs/cost.md explains: seconds to start a kernel,
# operations per second in bfloat16 and the share of them that is reached, and the steps of a task
# of VTAB-1k: 120 epochs of 1,000 images in batches of 64.
LAUNCH_S, H100_FLOPS, H100_SHARE, STEPS = 5e-6, 989e12, 0.4, 120 * 16
_SHAPES = {"vit_base_patch16_224": (VIT_B16, 12), "swin_base_patch4_window7_224": (SWIN_B, 24)}

Report = dict[str, Any]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def source(report: Report, further: str = "") -> str:
    """Return where, with what and when ``report`` was measured."""
    versions = ", ".join(f"{k} {report['versions'][k]}" for k in ("torch", "timm"))
    where = f"{on(report['hardware'])}, {versions}, {report['date']}{further}"
    return f"{where}: `{report['command']}`\n\n"


def step(report: Report) -> str:
    """Return the time of the other forms over ours, and the memory, by number of prompts."""
    text = source(report, f", batch {report['options']['batch']}")
    text += "Time of a training step over that of `prefix`, median (least to most); at 0 prompts "
    text += "over that of the linear probe. Memory: held for backward for each further image.\n\n"
    for (backbone, precision, compiled), rows in _grouped(report["rows"]):
        shown = [name for name in _STEP_SIDES if any(name in row["sides"] for row in rows)]
        head = [f"{_NAMES.get(backbone, backbone)}, {precision}{', compiled' * compiled}: prompts"]
        lines = []
        for row in rows:
            sides = row["sides"]
            ours = _ours(sides)
            cells = [
                told(ratio(sides, name, ours)) if name in sides and ours in sides else "-"
                for name in shown
            ]
            lines.append([str(row["prompts"]), *cells, *_memory(sides, ours)])
        peaks = "peak of ours, GB", "of tokens, fused"
        on_gpu = any("peak" in side for row in rows for side in row["sides"].values())
        head += [_STEP_SIDES[name] for name in shown]
        head += ["ours, ms", "memory of ours, MB", "of tokens, fused", *(peaks if on_gpu else ())]
        text += markdown(head, [line[: len(head)] for line in lines]) + "\n"
    return text


def _memory(sides: dict[str, Any], ours: str) -> list[str]:
    if ours not in sides:
        return ["-"] * 5
    median, *_ = spread(sides[ours]["seconds"])
    cells = [f"{1e3 * median:,.0f}"]
    for name, unit in ("held_per_image", 1e6), ("peak", 1e9):
        own, other = (sides.get(side, {}).get(name) for side in (ours, "release"))
        cells.append("-" if own is None else f"{own / unit:,.1f}")
        cells.append(f"{own / other:.2f}" if own and other and ours == "prefix" else "-")
    return cells


def inference(report: Report) -> str:
    """Return latency, images per second and time over the bare backbone, by size of batch."""
    prompts, rows = report["options"]["prompts"], report["rows"]
    text = source(report, f", {report['options']['precision']}")
    text += "Images per second, and time over that of the backbone without prompts, "
    text += "median (least to most).\n\n"
    name = _NAMES.get(report["options"]["backbone"], report["options"]["backbone"])
    head = [f"{name}, {prompts} prompts per block", *(f"batch {row['batch']}" for row in rows)]
    lines = []
    for side, called in _INFERENCE_SIDES.items():
        cells = []
        for row in rows:
            if side not in row["sides"]:
                cells.append("-")
                continue
            rate = row["batch"] / spread(row["sides"][side]["seconds"])[0]
            over = told(ratio(row["sides"], side, "timm")) if "timm" in row["sides"] else "-"
            cells.append(f"{rate:,.2f}; {over}")
        if set(cells) != {"-"}:
            lines.append([called, *cells])
    return text + markdown(head, lines)


def scoring(report: Report) -> str:
    """Return the time of scoring, and of one more budget, over that of an epoch."""
    head = ["", "prompts", "scoring pass", "one more budget"]
    lines = [
        [
            _NAMES.get(row["backbone"], row["backbone"]),
            str(row["prompts"]),
            *(told(ratio(row["sides"], name, "epoch")) for name in ("scoring", "budget")),
        ]
        for row in report["rows"]
    ]
    text = (
        source(report) + "Time over that of one epoch of training on the same images, float32.\n\n"
    )
    return text + markdown(head, lines)


def merging(report: Report) -> str:
    """Return the time of finding merges, and what merged prompts cost in inference."""
    options, sides = report["options"], report["sides"]
    processor = report["merges_processor_seconds"]
    name = _NAMES.get(options["backbone"], options["backbone"])
    images = f"{options['images']:,} images"
    few = f"{report['images_compared']} images"
    over = told(ratio(report["compared"], "rows", "passes"))
    lines = [
        [f"forward and backward pass of {images}, s", told(spread(sides["rows"]["seconds"]), 1)],
        [f"that over a forward and backward pass of training, {few}", over],
        ["all merges, beyond both passes, s", told(spread(sides["merges"]["seconds"]), 1)],
        ["the same, processor time of all threads, s", told(spread(processor), 1)],
        ["twenty budgets cut from them, s", told(spread(sides["budgets"]["seconds"]), 1)],
    ]
    for row in report["rows"]:
        what = f"inference, frozen, batch {row['batch']}: {row['prompts']:,} merged prompts / plain"
        lines.append([what, told(ratio(row["sides"], "merged", "plain"), 3)])
    head = [f"{name}, {options['prompts']} prompts per block", "median (least to most)"]
    return source(report) + markdown(head, lines)


def many_tasks(report: Report) -> str:
    """Return what a mixed batch costs, and what an adapter takes of time and memory."""
    tasks, text = report["options"]["tasks"], source(report)
    text += (
        f"Time of the processor for a batch of {tasks} tasks over that for a batch of one task, "
    )
    text += "median (least to most).\n\n"
    sides = {
        "mixed": "one mixed batch",
        "by task": "a batch for each task",
        "models": "a model for each task, in turn",
    }
    lines = []
    for row in report["rows"]:
        name = f"{_NAMES.get(row['backbone'], row['backbone'])}, {row['prompts']} prompts per block"
        rate = row["batch"] / spread(row["sides"]["one"]["seconds"])[0]
        busy = {side: {"seconds": row["sides"][side]["processor"]} for side in row["sides"]}
        ratios = (told(ratio(busy, side, "one")) for side in sides)
        lines.append([name, str(row["batch"]), f"{rate:,.1f}", *ratios])
    text += markdown(["", "batch", "one task, images/s", *sides.values()], lines)
    for row in report["rows"]:
        if "filled" in row:
            *filled, times = row["filled"]
            held = "; ".join(f"{f['adapters']:,}: {f['bytes'] / 1e6:,.1f} MB" for f in filled)
            added, busy = (
                told(spread([1e3 * second for second in times[name]]), 1)
                for name in ("add_s", "add_processor_s")
            )
            text += f"\n{_NAMES.get(row['backbone'], row['backbone'])}: an adapter file has "
            text += f"{row['file_bytes'] / 1e3:,.0f} KB. Reading one until it can serve takes "
            text += f"{added} ms ({busy} ms of the processor), removing one "
            text += f"{1e3 * times['remove_s']:.2f} ms. "
            text += f"Memory by number of adapters: {held}.\n"
    return text


def fit(report: Report) -> str:
    """Return what the package costs around the model."""
    options, sides = report["options"], report["sides"]
    bare, *_ = spread(sides["bare"]["seconds"])
    once = spread(sides["fit"]["seconds"])[0] - spread(sides["epochs"]["seconds"])[0]
    name = _NAMES.get(options["backbone"], options["backbone"])
    return source(report) + (
        f"{options['epochs']} epochs of {options['images']:,} images, batch {options['batch']}, "
        f"{name}, in `trainer.fit` over the same in a bare loop ({bare:,.1f} s): "
        f"{told(ratio(sides, 'epochs', 'bare'), 3)}. "
        f"Once for a run, fit takes {once:,.1f} s more.\n"
    )


def host(report: Report) -> str:
    """Return the processor time of the host in a step around no model."""
    options, sides = report["options"], report["sides"]
    ours, bare = (
        told(spread([1e3 * taken for taken in sides[name]["seconds"]])) for name in ("fit", "bare")
    )
    return source(report) + (
        f"Processor time of a step of {options['batch']} images with nothing in the place of the "
        f"model: {ours} ms in `trainer.fit`, {bare} ms in a bare loop.\n"
    )


def task(report: Report) -> str:
    """Return where the time of one task goes, and what is projected from it."""
    options, divided = report["options"], sum(report["parts"].values())
    epochs = f"{options['prompt_epochs']} + {options['finetune_epochs']}"
    lines = [[n, f"{s:,.1f}", f"{s / divided:.1%}"] for n, s in report["parts"].items()]
    whole = sum(report["seconds"].values())
    lines.append(["whole", f"{whole:,.1f}", f"{whole / report['floor_s']:.2f} of its floor"])
    images = f"{options['train'] + options['val']:,} images, {options['test']:,} in the test"
    projected = report["projected"]
    return (
        source(report, f", {options['precision']}")
        + markdown([f"{options['task']}, {epochs} epochs, {images}", "s", "share"], lines)
        + "\n*Projected from that, not measured:* 100 + 20 epochs with the published test take "
        + f"{projected['task_s'] / 60:,.1f} min, 19 tasks with 5 seeds "
        + f"{projected['vtab_s'] / 3600:,.1f} h.\n"
    )


def kernels(report: Report) -> str:
    """Return the kernels of a step, and the time of one that an H100 is estimated to take."""
    batch = report["options"]["batch"]
    head = ["", "forward", "casts among them", "backward", "start of all, ms", "arithmetic, ms"]
    head += ["step, ms", "task, min"]
    lines = []
    for row in report["rows"]:
        casts = row["forward"].get("_to_copy", 0)
        forward, back = (sum(row[name].values()) for name in ("forward", "backward"))
        shape, blocks = _SHAPES[row["backbone"]]
        macs = shape.deep("prefix", [row["prompts"]] * blocks).step(batch)
        started = 1e3 * LAUNCH_S * (forward + back)
        computed = 1e3 * 2 * macs / (H100_SHARE * H100_FLOPS)
        name = f"{_NAMES[row['backbone']]}, {row['prompts']} prompts, {row['precision']}"
        step_ms = max(started, computed)
        cells = [f"{started:.1f}", f"{computed:.1f}", f"{step_ms:.1f}"]
        minutes = step_ms * STEPS / 60e3
        lines.append([name, str(forward), str(casts), str(back), *cells, f"{minutes:.1f}"])
    return source(report, f", batch {batch}") + markdown(head, lines)


def shared(report: Report) -> str:
    """Return what runs that share a device take."""
    runs, alone, together = report["options"]["runs"], report["alone"], report["together"]
    return source(report) + (
        f"{runs} runs at once: {together:,.1f} s. One run alone: {alone:,.1f} s. So together they "
        f"take {together / (runs * alone):.2f} of the time of as many one after another.\n"
    )


def sizes(report: Report) -> str:
    """Return what a run leaves on the disk, by number of prompts."""
    options, keep = report["options"], f"{report['keep']:.0%}"
    name = _NAMES.get(options["backbone"], options["backbone"])
    head = [f"{name}, {options['classes']} classes: prompts per block"]
    head += ["`prompt-last.ckpt`", "`finetune-last.ckpt`", f"adapter, {keep} kept"]
    head += ["the model's whole state dict", "that over the adapter"]
    lines = []
    for row in report["rows"]:
        files = [_bytes(row[part]) for part in ("prompt_last", "finetune_last", "adapter", "whole")]
        lines.append([str(row["prompts"]), *files, f"{row['whole'] / row['adapter']:,.0f}"])
    return source(report) + markdown(head, lines)


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} KB"


def parity(report: Report) -> str:
    """Return the largest difference of the executions."""
    rows = report["rows"]
    largest = max(row[name] for row in rows for name in ("logits", "prompt_gradients"))
    count = len({row["backbone"] for row in rows})
    return source(report) + (
        f"Largest difference between the two executions in logits and prompt gradients: "
        f"{largest:.1e} of the largest value, over {count} backbones, Deep and Shallow, all "
        "prompts and ragged choices, float32.\n"
    )


def counted() -> str:
    """Return what the formulas say of ViT-B/16 and Swin-B at 224 pixels."""
    head = ["", "prompts", "form", "forward", "backward", "held, MB", "once per batch"]
    lines = []
    for name, shape, blocks, numbers in (
        ("ViT-B/16", VIT_B16, 12, (0, 10, 50, 100, 200)),
        ("Swin-B", SWIN_B, 24, (5, 10, 25, 50)),
    ):
        for prompts in numbers:
            for form in ("tokens", "prefix", *(("frozen",) if prompts else ())):
                cost: Cost = shape.deep(form, [prompts] * blocks)
                trained = form != "frozen" and prompts
                shared = f"{cost.shared_forward / 1e9:.2f}"
                if trained:
                    shared += f" + {cost.shared_backward / 1e9:.2f}"
                lines.append(
                    [
                        *(name, str(prompts), f"`{form}`", f"{cost.forward / 1e9:.2f}"),
                        f"{cost.backward / 1e9:.2f}" if trained else "-",
                        f"{cost.held / 1e6:.1f}" if trained else "-",
                        shared if form != "tokens" and cost.shared_forward else "-",
                    ]
                )
    return markdown(head, lines)


def compared(report: Report) -> str:
    """Return the counted and the measured ratio of forms, and how far they are apart."""
    text = source(report, f", batch {report['options']['batch']}")
    head = ["", "prompts", "forms", "counted", "measured", "measured / counted"]
    lines = []
    for (backbone, precision, compiled), rows in _grouped(report["rows"]):
        name = f"{_NAMES.get(backbone, backbone)}, {precision}{', compiled' * compiled}"
        for row in rows:
            sides, ours = row["sides"], _ours(row["sides"])
            for other in _STEP_SIDES:
                if other in sides and ours in sides and other != ours:
                    lines.append(
                        [
                            *(name, str(row["prompts"]), f"`{other}` / `{ours}`"),
                            *_apart(sides, other, ours),
                        ]
                    )
    return text + markdown(head, lines)


def compared_inference(report: Report) -> str:
    """Return the same of inference."""
    head = ["batch", "forms", "counted", "measured", "measured / counted"]
    lines = [
        [str(row["batch"]), f"`{name}` / `timm`", *_apart(row["sides"], name, "timm")]
        for row in report["rows"]
        for name in row["sides"]
        if name != "timm" and "timm" in row["sides"]
    ]
    return source(report) + markdown(head, lines)


def _apart(sides: dict[str, Any], side: str, of: str) -> tuple[str, str, str]:
    expected = sides[side]["macs"] / sides[of]["macs"]
    found = ratio(sides, side, of)
    apart = found[0] / expected
    mark = "**" * (not 0.8 <= apart <= 1.2)
    return f"{expected:.2f}", told(found), f"{mark}{apart:.2f}{mark}"


def _ours(sides: dict[str, Any]) -> str:
    return "prefix" if "prefix" in sides else "linear"


def _grouped(rows: Sequence[Report]) -> Iterator[tuple[tuple[str, str, bool], list[Report]]]:
    groups: dict[tuple[str, str, bool], list[Report]] = {}
    for row in rows:
        key = row["backbone"], row["precision"], row["compiled"]
        groups.setdefault(key, []).append(row)
    yield from groups.items()


_OF_REPORTS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "step": ("step", step),
    "step_batch_32": ("batch_32/step", step),
    "step_swin_50": ("swin_50/step", step),
    "inference": ("inference", inference),
    "inference_onnx": ("onnx_small/inference", inference),
    "inference_onnx_base": ("onnx_base/inference", inference),
    "scoring": ("scoring", scoring),
    "merging": ("merging", merging),
    "many_tasks": ("many_tasks", many_tasks),
    "many_tasks_swin": ("swin_50/many_tasks", many_tasks),
    "fit": ("fit", fit),
    "host": ("host", host),
    "task": ("task", task),
    "parity": ("parity", parity),
    "sizes": ("sizes", sizes),
    "kernels": ("kernels", kernels),
    "kernels_before": ("before/kernels", kernels),
    "shared": ("shared", shared),
    "compared": ("step", compared),
    "compared_inference": ("inference", compared_inference),
}


def blocks(results: Path) -> dict[str, str]:
    """Return the text of every block by its name, from the JSON in the folder ``results``."""
    reports = {
        str(path.relative_to(results).with_suffix("")): json.loads(path.read_text())
        for path in sorted(results.rglob("*.json"))
    }
    reached = markdown(["", "to be reached", "measured"], goals(reports))
    found = {"goals": reached, "counted": counted()}
    for name, (benchmark, render) in _OF_REPORTS.items():
        texts = [
            render(reports[f"{benchmark}_{device}"]).strip()
            for device in ("cpu", "cuda")
            if f"{benchmark}_{device}" in reports
        ]
        missing = f"*Not measured yet:* `python benchmarks/{benchmark}.py`"
        found[name] = "\n\n".join(texts) or missing
    return found


def names(page: str) -> list[str]:
    """Return the names of the blocks of ``page``."""
    return [name for _, name, _ in _BLOCK.findall(page)]


def rendered(page: str, texts: dict[str, str]) -> str:
    """Return ``page`` with the text of each block between its marks."""
    return _BLOCK.sub(lambda m: f"{m[1]}{texts[m[2]].strip()}\n{m[3]}", page)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="Check the pages and write nothing.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="Folder of the JSON files.")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES)
    args = parser.parse_args(arguments)
    texts, stale = blocks(args.results), []
    for page in args.pages:
        before = page.read_text()
        after = rendered(before, texts)
        if after != before:
            stale.append(page.name)
            if not args.check:
                page.write_text(after)
    if args.check and stale:
        sys.exit(f"{', '.join(stale)}: not what the JSON says; run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
