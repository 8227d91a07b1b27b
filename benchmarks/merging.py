"""Time of merging prompts, and of a model with merged prompts.

    python benchmarks/merging.py [--images 200] [--threads 2]

``rows`` is the pass over all images from which merges are found. On the images of one batch it
takes turns with ``passes``, a forward and a backward pass of training. ``merges`` is all that
follows until each budget can be cut, and ``budgets`` cuts twenty of them. Then a frozen model with
merged prompts takes turns with one with as many prompts that were not merged. All on random weights
and prompts.
"""

import argparse
import copy
import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from report import hardware, on, options, prepare, ratio, show, spread, told, write
from rich.table import Table
from timing import alternate, seconds
from torch import Tensor

import pcvpt
from pcvpt.condensation import merge_tree, merging
from pcvpt.condensation.attention_rows import attention_rows

CLASSES = 100


def find(model: Any, setting: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Return the times of finding the merges of ``model``, and the merges."""
    device = setting.device
    images = torch.randn(setting.images, 3, *model.patch_embed.img_size, device=device)
    batches = [(part,) for part in images.split(setting.batch)]
    few = images[: setting.batch]
    labels = torch.randint(0, CLASSES, (len(few),), device=device)
    model.train()
    times = alternate(
        {
            "passes": lambda: F.cross_entropy(model(few), labels).backward(),
            "rows": lambda: attention_rows(model, [(few,)]),
        },
        setting.repeats,
        device,
    )
    found: dict[str, Any] = {}

    def all_rows() -> None:
        found["rows"] = attention_rows(model, batches)

    processor: list[float] = []

    def merges() -> None:
        start = time.process_time()
        with patch.object(merging, "attention_rows", return_value=found["rows"]):
            found["tree"] = merge_tree(model, [])
        processor.append(time.process_time() - start)

    def budgets() -> None:
        for percent in range(5, 105, 5):
            found["tree"].cut(percent / 100)

    whole = {"rows": [seconds(all_rows, device)]}
    whole |= alternate({"merges": merges, "budgets": budgets}, setting.repeats, device, warm=0)
    result = {
        "images_compared": len(few),
        "compared": {name: {"seconds": taken} for name, taken in times.items()},
        "sides": {name: {"seconds": taken} for name, taken in whole.items()},
        "merges_processor_seconds": processor,
    }
    return result, found["tree"]


def serve(model: Any, tree: Any, batch: int, setting: argparse.Namespace) -> dict[str, Any]:
    """Return the row of inference with one size of batch."""
    merged, plain = copy.deepcopy(model), copy.deepcopy(model)
    merged.prompts.apply_merge(tree.cut(setting.keep))
    counts, prompts = merged.prompts.counts(), model.prompts.keep.shape[1]
    plain.prompts.apply_mask([torch.arange(prompts) < count for count in counts])
    images = torch.randn(batch, 3, *model.patch_embed.img_size, device=setting.device)

    def forward(frozen: Any) -> Any:
        @torch.inference_mode()
        def work() -> Tensor:
            logits: Tensor = frozen(images)
            return logits

        return work

    sides = {"merged": forward(merged.freeze_prompts()), "plain": forward(plain.freeze_prompts())}
    times = alternate(sides, setting.rounds, setting.device)
    return {
        "batch": batch,
        "prompts": sum(counts),
        "sides": {name: {"seconds": taken} for name, taken in times.items()},
    }


def table(report: dict[str, Any]) -> Table:
    """Lay out ``report`` for the terminal."""
    shown = Table("what", "s, or ratio")
    for name, side in report["sides"].items():
        shown.add_row(name, told(spread(side["seconds"])))
    processor = told(spread(report["merges_processor_seconds"]))
    shown.add_row("merges, processor time of all threads", processor)
    of_few = f"rows over passes, {report['images_compared']} images"
    shown.add_row(of_few, told(ratio(report["compared"], "rows", "passes")))
    for row in report["rows"]:
        what = f"inference, batch {row['batch']}, {row['prompts']} prompts: merged over plain"
        shown.add_row(what, told(ratio(row["sides"], "merged", "plain"), 3))
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--prompts", type=int, default=200, help="Prompts per block.")
    parser.add_argument("--images", type=int, default=200, help="Images to merge by.")
    parser.add_argument("--batch", type=int, default=8, help="Batch size of the passes.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="Of inference.")
    parser.add_argument("--keep", type=float, default=0.1, help="Fraction that is left.")
    parser.add_argument("--repeats", type=int, default=3, help="Rounds of finding merges.")
    parser.add_argument("--rounds", type=int, default=20, help="Rounds of inference.")
    parser.add_argument(
        "--image_size", type=int, help="Image size in pixels. Default: that of the backbone."
    )
    args = parser.parse_args(arguments)
    device = prepare(args)
    size = {} if args.image_size is None else {"img_size": args.image_size}
    model = pcvpt.create_model(args.backbone, CLASSES, args.prompts, pretrained=False, **size)
    torch.nn.init.normal_(model.get_classifier().weight, std=0.02)  # at zero, nothing has an effect
    setting = argparse.Namespace(**{**vars(args), "device": device})
    report, tree = find(model.to(device), setting)
    report["rows"] = []
    write("merging", device, args, **report)
    for batch in args.batches:
        report["rows"].append(serve(model, tree, batch, setting))
        write("merging", device, args, **report)  # of what is done, if it is cut short
    title = f"{args.backbone}, {args.prompts} prompts per block, {args.images} images"
    show(f"{title}, {on(hardware(device))}", table(report))


if __name__ == "__main__":
    main()
