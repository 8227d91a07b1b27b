"""Time of a scoring pass, and of trying a budget, against that of a training epoch.

    python benchmarks/scoring.py [--images 800] [--batch 64]

``epoch`` takes a step of training for each batch of a split, ``scoring`` is
``pcvpt.score_prompts`` by the attention gate over the same batches. ``budget`` is what each further
entry of a list of ``keep`` costs without fine-tuning: prompts selected from the scores that are
there, masked, and the accuracy on validation images, a quarter as many as those of the split, as in
VTAB-1k. They take turns in one process, on random weights; a CPU takes a short split, as all three
grow with the number of images alone.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from arithmetic import multiply_accumulates
from report import hardware, on, options, prepare, ratio, show, spread, told, write
from rich.table import Table
from timing import Call, Peak, alternate

import pcvpt

CLASSES = 100
CASES = (
    ("vit_base_patch16_224", 10),
    ("vit_base_patch16_224", 50),
    ("vit_base_patch16_224", 200),
    ("swin_base_patch4_window7_224", 50),
)


def compare(backbone: str, prompts: int, setting: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one model.

    Args:
        backbone: Name of a timm model.
        prompts: Prompts per block.
        setting: ``device``, ``images``, ``batch``, ``repeats``, ``size``.
    """
    device = setting.device
    model = pcvpt.create_model(backbone, CLASSES, prompts, pretrained=False, **setting.size)
    model.to(device).train()
    images = torch.randn(setting.images, 3, *model.patch_embed.img_size, device=device)
    labels = torch.randint(0, CLASSES, (setting.images,), device=device)
    batches = list(zip(images.split(setting.batch), labels.split(setting.batch), strict=True))
    held_out = max(1, len(batches) // 4)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    everything = list(model.prompts.keep.clone())
    scores = pcvpt.score_prompts(model, batches[:1])

    def epoch() -> None:
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

    def scoring() -> None:
        pcvpt.score_prompts(model, batches)

    def budget() -> None:
        model.prompts.apply_mask(pcvpt.select_prompts(scores, setting.keep))
        model.eval()
        with torch.no_grad():
            right = [(model(images).argmax(1) == labels).sum() for images, labels in val]
        int(torch.stack(right).sum())
        model.train()
        model.prompts.apply_mask(everything)

    val = batches[:held_out]
    sides: dict[str, Call] = {"epoch": epoch, "scoring": scoring, "budget": budget}
    macs = {name: multiply_accumulates(work) for name, work in sides.items()}
    peak = Peak(device, torch.float32)
    times = alternate(sides, setting.repeats, device, between=peak, warm=device.type == "cuda")
    return {
        "backbone": backbone,
        "prompts": prompts,
        "validation_share": held_out / len(batches),
        "peak_macs_per_s": peak.rate,
        "sides": {name: {"macs": macs[name], "seconds": taken} for name, taken in times.items()},
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay out ``rows`` for the terminal."""
    shown = Table()
    for column in ("backbone", "prompts", "side", "s", "over epoch", "of its floor"):
        shown.add_column(column, justify="left" if column in ("backbone", "side") else "right")
    for row in rows:
        for name, side in row["sides"].items():
            median, *_ = spread(side["seconds"])
            floor = side["macs"] / row["peak_macs_per_s"]
            over = told(ratio(row["sides"], name, "epoch"))
            shown.add_row(
                *(row["backbone"], str(row["prompts"]), name),
                *(f"{median:,.2f}", over, f"{median / floor:.2f}"),
            )
        shown.add_section()
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--backbone", help="timm model, with --prompts. Default: ViT-B/16 and Swin-B."
    )
    parser.add_argument("--prompts", type=int, nargs="+", help="Prompts per block.")
    parser.add_argument(
        "--images", type=int, help="Images of the split. Default: 800 on a GPU, 16 on a CPU."
    )
    parser.add_argument("--batch", type=int, help="Batch size. Default: 64 on a GPU, 4 on a CPU.")
    parser.add_argument("--repeats", type=int, default=5, help="Rounds.")
    parser.add_argument(
        "--keep", type=float, default=0.3, help="Fraction of the prompts that is kept."
    )
    parser.add_argument(
        "--image_size", type=int, help="Image size in pixels. Default: that of the backbone."
    )
    args = parser.parse_args(arguments)
    if (args.backbone is None) != (args.prompts is None):
        parser.error("give --backbone and --prompts together")
    device = prepare(args)
    gpu = device.type == "cuda"
    args.images, args.batch = args.images or (800 if gpu else 16), args.batch or (64 if gpu else 4)
    size = {} if args.image_size is None else {"img_size": args.image_size}
    setting = argparse.Namespace(
        device=device,
        images=args.images,
        batch=args.batch,
        repeats=args.repeats,
        keep=args.keep,
        size=size,
    )
    cases = [(args.backbone, p) for p in args.prompts] if args.prompts else CASES
    rows = []
    for backbone, prompts in cases:
        rows.append(compare(backbone, prompts, setting))
        write("scoring", device, args, rows=rows)  # of what is done, if it is cut short
    show(f"{args.images} images, batch {args.batch}, {on(hardware(device))}", table(rows))


if __name__ == "__main__":
    main()
