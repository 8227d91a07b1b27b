"""Latency and images per second of inference: bare backbone, published form, and ours.

    python benchmarks/inference.py [--batches 1 8 64] [--prompts 200] [--aot]

Sides, all on random weights: ``timm``, the backbone with a head and no prompts; ``release``,
prompts as tokens (``release.py``); ``prefix``, as trained; ``condensed``, the same with 30 % of all
prompts, drawn at random, so each block keeps another number; ``frozen`` and ``frozen condensed``,
after ``model.freeze_prompts()``; ``exported``, the last of these through ``torch.export``; with
``--aot`` also compiled ahead of time (``AOTInductor``, which needs a C++ compiler), and with
``--onnx`` run by ONNX Runtime on as many threads (on a CPU). They take turns
in one process. On a CPU the largest batch takes four sides and fewer rounds, so that the whole ends
in about ten minutes on one thread.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from arithmetic import multiply_accumulates
from release import release_form
from report import hardware, on, options, prepare, ratio, show, spread, told, write
from rich.table import Table
from timing import Peak, alternate
from torch import Tensor, nn

import pcvpt

CLASSES = 100
SIDES = ("timm", "release", "prefix", "condensed", "frozen", "frozen condensed", "exported")
AOT, ONNX = "AOTInductor", "ONNX Runtime"
# Of batches that would take minutes on a CPU.
FEW = ("timm", "release", "prefix", "frozen")


def models(backbone: str, prompts: int, keep: float, **size: Any) -> dict[str, nn.Module]:
    """Return the models of all sides but the exported ones."""
    ours = pcvpt.create_model(backbone, CLASSES, prompts, pretrained=False, **size).eval()
    condensed = copy.deepcopy(ours)
    scores = pcvpt.score_prompts(condensed, [], "random")
    condensed.prompts.apply_mask(pcvpt.select_prompts(scores, keep))
    return {
        "timm": timm.create_model(backbone, num_classes=CLASSES, **size).eval(),
        "release": release_form(backbone, CLASSES, prompts, **size).eval(),
        "prefix": ours,
        "condensed": condensed,
        "frozen": copy.deepcopy(ours).freeze_prompts(),
        "frozen condensed": copy.deepcopy(condensed).freeze_prompts(),
    }


def compare(built: dict[str, nn.Module], batch: int, setting: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one size of batch.

    Args:
        built: Models from :func:`models`, on the device.
        batch: Batch size.
        setting: Namespace with ``device``, ``dtype``, ``repeats``, ``sides``.
    """
    device = setting.device
    model: Any = built["timm"]
    images = torch.randn(batch, 3, *model.patch_embed.img_size, device=device)
    called: dict[str, Callable[[Tensor], Any]] = {
        name: model for name, model in built.items() if name in setting.sides
    }
    counted = dict(called)
    if {"exported", AOT} & set(setting.sides):
        program = torch.export.export(built["frozen condensed"], (images,))
        if "exported" in setting.sides:
            counted["exported"] = called["exported"] = program.module()
        if AOT in setting.sides:
            called[AOT] = _ahead_of_time(program)
            counted[AOT] = built["frozen condensed"]
    if ONNX in setting.sides:
        counted[ONNX] = built["frozen condensed"]
        called[ONNX] = _onnx(counted[ONNX], images)

    def forward(model: Callable[[Tensor], Any]) -> Callable[[], None]:
        @torch.inference_mode()
        def work() -> None:
            with precision():
                model(images)

        return work

    def precision() -> Any:
        if setting.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, dtype=setting.dtype)

    macs = {name: multiply_accumulates(forward(model)) for name, model in counted.items()}
    peak = Peak(device, setting.dtype)
    works = {name: forward(model) for name, model in called.items()}
    warm = device.type == "cuda" or AOT in called
    times = alternate(works, setting.repeats, device, between=peak, warm=warm)
    return {
        "batch": batch,
        "peak_macs_per_s": peak.rate,
        "sides": {name: {"macs": macs[name], "seconds": taken} for name, taken in times.items()},
    }


def _ahead_of_time(program: Any) -> Callable[[Tensor], Any]:
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    with tempfile.TemporaryDirectory() as folder:
        package = aoti_compile_and_package(program, package_path=str(Path(folder) / "model.pt2"))
        loaded: Callable[[Tensor], Any] = aoti_load_package(package)
    return loaded


def _onnx(model: Any, images: Tensor) -> Callable[[Tensor], Any]:
    import onnxruntime

    program: Any = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.numpy()})


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay out ``rows`` for the terminal."""
    shown = Table()
    for column in ("batch", "side", "ms", "images/s", "over timm", "over prefix", "of its floor"):
        shown.add_column(column, justify="left" if column == "side" else "right")
    for row in rows:
        sides = row["sides"]
        for name, side in sides.items():
            median, *_ = spread(side["seconds"])
            over = [
                told(ratio(sides, name, of)) if of in sides else "-" for of in ("timm", "prefix")
            ]
            floor = side["macs"] / row["peak_macs_per_s"]
            numbers = f"{1e3 * median:,.1f}", f"{row['batch'] / median:,.1f}"
            shown.add_row(str(row["batch"]), name, *numbers, *over, f"{median / floor:.2f}")
        shown.add_section()
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--prompts", type=int, default=200, help="Prompts per block.")
    parser.add_argument(
        "--keep", type=float, default=0.3, help="Fraction of the prompts that is kept."
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="Sides to run. Default: all.")
    parser.add_argument("--aot", action="store_true", help="Also run AOTInductor.")
    parser.add_argument("--onnx", action="store_true", help="Also run ONNX Runtime.")
    parser.add_argument("--repeats", type=int, help="Rounds. Default: 50 on a GPU, 5 on a CPU.")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument(
        "--image_size", type=int, help="Image size in pixels. Default: that of the backbone."
    )
    args = parser.parse_args(arguments)
    device = prepare(args)
    gpu = device.type == "cuda"
    args.repeats = args.repeats or (50 if gpu else 5)
    size = {} if args.image_size is None else {"img_size": args.image_size}
    built = {
        name: model.to(device)
        for name, model in models(args.backbone, args.prompts, args.keep, **size).items()
    }
    rows = []
    for batch in args.batches:
        long = not gpu and batch > 16 and args.sides is None
        sides = args.sides or (FEW if long else SIDES)
        setting = argparse.Namespace(
            device=device,
            dtype={"float32": torch.float32, "bf16": torch.bfloat16}[args.precision],
            repeats=min(args.repeats, 2) if long else args.repeats,
            sides=[*sides, *([AOT] if args.aot else []), *([ONNX] if args.onnx else [])],
        )
        rows.append(compare(built, batch, setting))
        write("inference", device, args, rows=rows)  # of what is done, if it is cut short
    title = f"{args.backbone}, {args.prompts} prompts per block, {on(hardware(device))}"
    show(title, table(rows))


if __name__ == "__main__":
    main()
