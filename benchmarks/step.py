"""Time and memory of a training step: the published form of VPT-Deep against ours.

    python benchmarks/step.py [--batch 128] [--precision float32 bf16] [--compile]

Sides, all on random weights: ``release`` (prompts as tokens, ``release.py``) with fused attention
and ``unfused``, as it is published; our ``tokens`` and ``prefix``; ``linear``, a linear probe, as
the floor of training; ``full``, fine-tuning of every parameter of timm's own model. They take turns
in one process; what is told of a side is its time over that of another in the same round. On a CPU
batches are small, precision is float32, and all sides run only at some numbers of prompts
(``--every_side_at``), so that the whole ends in about twenty minutes on one thread.

Memory: bytes that autograd holds between forward and backward for each further image, and on a GPU
the peak of a step. Arithmetic floor: the multiply-accumulates that the side executes, at the rate
of a large matrix product in the same precision, measured between the rounds.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from typing import Any

import timm
import torch
import torch.nn.functional as F
from activation_memory import held_for_backward
from arithmetic import multiply_accumulates
from release import release_form
from report import hardware, on, options, prepare, ratio, show, spread, told, write
from rich.table import Table
from timing import Peak, alternate
from torch import Tensor, nn

import pcvpt

CLASSES = 100
PROMPTS = {"vit": (0, 10, 50, 100, 200), "swin": (0, 5, 10, 25, 50)}
# On a CPU, where all sides everywhere would take hours.
EVERY_SIDE_AT = {"vit": (0, 50, 200), "swin": (0, 50)}
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}

Builder = Callable[..., nn.Module]


def _ours(execution: str) -> Builder:
    def build(backbone: str, prompts: int, dropout: float, **size: Any) -> nn.Module:
        given: dict[str, Any] = {"execution": execution, "prompt_dropout": dropout, **size}
        return pcvpt.create_model(backbone, CLASSES, prompts, pretrained=False, **given)

    return build


def _release(fused: bool) -> Builder:
    def build(backbone: str, prompts: int, dropout: float, **size: Any) -> nn.Module:
        return release_form(backbone, CLASSES, prompts, dropout, fused, **size)

    return build


def _linear(backbone: str, *_: Any, **size: Any) -> nn.Module:
    return pcvpt.create_model(backbone, CLASSES, 0, mode="linear", pretrained=False, **size)


def _full(backbone: str, *_: Any, **size: Any) -> nn.Module:
    return timm.create_model(backbone, num_classes=CLASSES, **size)


SIDES: dict[str, Builder] = {
    "release": _release(fused=True),
    "unfused": _release(fused=False),
    "tokens": _ours("tokens"),
    "prefix": _ours("prefix"),
    "linear": _linear,
    "full": _full,
}


class Step:
    """A model with its optimizer and one batch; calling it is one step of training.

    Args:
        model: Model in training mode.
        images: Images of the batch.
        labels: Labels of the batch.
        dtype: Type of the computation. bfloat16 means mixed precision.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype):
        self.model, self.images, self.labels = model, images, labels
        self.mixed = dtype != torch.float32
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with self.precision():
            loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()

    def precision(self) -> Any:
        if not self.mixed:
            return nullcontext()
        return torch.autocast(self.images.device.type, dtype=torch.bfloat16)

    def memory(self, macs_known: bool) -> dict[str, int]:
        """Return bytes held for each image, and on a GPU the step's peak with its own state.

        Args:
            macs_known: Whether the model is not compiled. A compiled one would be compiled again
                for other batch sizes.
        """
        found = {}
        if macs_known and len(self.images) > 1:
            with self.precision():
                one, two = (
                    held_for_backward(self.model, self.images[:n], self.labels[:n]) for n in (1, 2)
                )
            found["held_per_image"] = two - one
        if self.images.device.type == "cuda":
            self()
            self.optimizer.zero_grad()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            own = [*self.model.parameters(), *self.model.buffers()]
            for state in self.optimizer.state.values():
                own += [value for value in state.values() if isinstance(value, Tensor)]
            found["peak"] = torch.cuda.max_memory_allocated() - before + sum(t.nbytes for t in own)
        return found


def compare(
    backbone: str, prompts: int, sides: Sequence[str], setting: argparse.Namespace
) -> dict[str, Any]:
    """Return the row of one number of prompts.

    Args:
        backbone: Name of a timm model.
        prompts: Prompts per block. With 0, ``linear`` is the only one of our forms.
        sides: Names from ``SIDES``.
        setting: Namespace with ``device``, ``dtype``, ``compiled``, ``batch``, ``repeats``,
            ``dropout``, ``size``.
    """
    device = setting.device
    built = {
        name: SIDES[name](backbone, prompts, setting.dropout, **setting.size).to(device).train()
        for name in sides
        if prompts or name not in ("tokens", "prefix")
    }
    images = torch.randn(setting.batch, 3, *_image_size(built), device=device)
    labels = torch.randint(0, CLASSES, (setting.batch,), device=device)
    steps = {name: Step(model, images, labels, setting.dtype) for name, model in built.items()}
    found: dict[str, dict[str, Any]] = {
        name: {"macs": multiply_accumulates(step)} for name, step in steps.items()
    }
    if setting.compiled:
        torch.compiler.reset()
        for step in steps.values():
            step.model = torch.compile(step.model)  # type: ignore[assignment]
            step()
    peak = Peak(device, setting.dtype)
    times = alternate(steps, setting.repeats, device, between=peak, warm=setting.compiled)
    for name, step in steps.items():
        found[name]["seconds"] = times[name]
        found[name] |= step.memory(not setting.compiled)
    return {
        "backbone": backbone,
        "prompts": prompts,
        "batch": setting.batch,
        "precision": setting.precision,
        "compiled": setting.compiled,
        "peak_macs_per_s": peak.rate,
        "sides": found,
    }


def _image_size(built: dict[str, nn.Module]) -> tuple[int, int]:
    model: Any = next(iter(built.values()))
    size: tuple[int, int] = getattr(model, "backbone", model).patch_embed.img_size
    return size


def _family(backbone: str) -> str:
    return "swin" if backbone.startswith("swin") else "vit"


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay out ``rows`` for the terminal."""
    shown = Table()
    for column in ("backbone", "prompts", "precision", "side"):
        shown.add_column(column)
    for column in ("ms", "of prefix", "of its floor", "held per image, MB", "peak, GB"):
        shown.add_column(column, justify="right")
    for row in rows:
        sides = row["sides"]
        yardstick = "prefix" if "prefix" in sides else "linear"
        precision = row["precision"] + " compiled" * row["compiled"]
        for name, side in sides.items():
            median, *_ = spread(side["seconds"])
            of = told(ratio(sides, name, yardstick)) if yardstick in sides else "-"
            floor = side["macs"] / row["peak_macs_per_s"]
            held, peak = side.get("held_per_image"), side.get("peak")
            shown.add_row(
                *(row["backbone"], str(row["prompts"]), precision, name),
                *(f"{1e3 * median:,.0f}", of, f"{median / floor:.2f}"),
                f"{held / 1e6:.1f}" if held is not None else "-",
                f"{peak / 1e9:.2f}" if peak is not None else "-",
            )
        shown.add_section()
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    backbones = ["vit_base_patch16_224", "swin_base_patch4_window7_224"]
    parser.add_argument("--backbones", nargs="+", default=backbones)
    parser.add_argument(
        "--prompts", type=int, nargs="+", help=f"Prompts per block. Default: {PROMPTS}."
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument(
        "--every_side_at",
        type=int,
        nargs="*",
        help="Numbers of prompts at which all sides run. At others, only release and prefix run. "
        f"Default: all numbers on a GPU, {EVERY_SIDE_AT} on a CPU.",
    )
    parser.add_argument("--batch", type=int, help="Batch size. Default: 128 on a GPU, 4 on a CPU.")
    parser.add_argument("--repeats", type=int, help="Rounds. Default: 20 on a GPU, 5 on a CPU.")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=DTYPES,
        help="Precisions. Default: both on a GPU, float32 on a CPU.",
    )
    parser.add_argument("--compile", action="store_true", help="Also run every side compiled.")
    parser.add_argument("--dropout", type=float, default=0.0, help="Dropout of the prompts.")
    parser.add_argument(
        "--image_size", type=int, help="Image size in pixels. Default: that of the backbone."
    )
    args = parser.parse_args(arguments)
    device = prepare(args)
    gpu = device.type == "cuda"
    args.batch = args.batch or (128 if gpu else 4)
    args.repeats = args.repeats or (20 if gpu else 5)
    args.precision = args.precision or (list(DTYPES) if gpu else ["float32"])
    size = {} if args.image_size is None else {"img_size": args.image_size}
    rows = []
    for backbone in args.backbones:
        for precision in args.precision:
            for compiled in (False, True)[: 1 + args.compile]:
                setting = argparse.Namespace(
                    device=device,
                    dtype=DTYPES[precision],
                    precision=precision,
                    compiled=compiled,
                    batch=args.batch,
                    repeats=args.repeats,
                    dropout=args.dropout,
                    size=size,
                )
                family = _family(backbone)
                for prompts in args.prompts or PROMPTS[family]:
                    sides, everywhere = args.sides, args.every_side_at
                    if everywhere is None:
                        everywhere = [prompts] if gpu else EVERY_SIDE_AT[family]
                    if prompts not in everywhere:
                        sides = [name for name in sides if name in ("release", "prefix")]
                    # In a new process: what one row leaves of its memory, cut up by six
                    # models in turn, is of no use to the next.
                    with ProcessPoolExecutor(
                        1, get_context("spawn"), initializer=prepare, initargs=(args,)
                    ) as own:
                        done = own.submit(compare, backbone, prompts, sides, setting)
                        rows.append(done.result())
                    write("step", device, args, rows=rows)  # of what is done, if it is cut short
    show(f"Training step, batch {args.batch}, {on(hardware(device))}", table(rows))


if __name__ == "__main__":
    main()
