"""How far apart the two executions of the same model are, in float32.

    python benchmarks/parity.py

Prints the largest difference of logits and of prompt gradients relative to the largest value, for
several families, Deep and Shallow, with all prompts and with a ragged choice of them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from report import hardware, on, options, prepare, show, write
from rich.table import Table

import pcvpt

BACKBONES = (
    "vit_base_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch16_gap_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch16_dinov3",
    "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    first, second = first.detach(), second.detach()
    return float((first - second).abs().max() / first.abs().max())


def compare(model: Any, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return the differences of the two executions of ``model`` as it is."""
    results = []
    for execution in ("tokens", "prefix"):
        model.execution = execution
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, list(model.prompts.parameters()))
        results.append((logits, model.prompts.stack(gradients)))
    differences = (difference(a, b) for a, b in zip(*results, strict=True))
    return dict(zip(("logits", "prompt_gradients"), differences, strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--prompts", type=int, default=50, help="Prompts per block.")
    parser.add_argument("--image_size", type=int, default=224)
    args = parser.parse_args(arguments)
    device = prepare(args)
    rows = []
    table = Table("backbone", "mode", "prompts", "logits", "prompt gradients")
    for backbone in args.backbones:
        for mode in ("deep", "shallow"):
            given: dict[str, Any] = {"mode": mode, "img_size": args.image_size}
            given["head_init"] = "vpt"  # with a head of zeros, logits and gradients would be zero
            model = pcvpt.create_model(backbone, 10, args.prompts, pretrained=False, **given)
            model.to(device)
            images = torch.randn(2, 3, *model.patch_embed.img_size, device=device)
            for kept in ("all", "ragged"):
                if kept == "ragged":
                    mask = torch.rand(model.prompts.keep.shape) < 0.3
                    if mode == "deep":
                        mask[0] = False
                    model.prompts.apply_mask(list(mask))
                found = compare(model, images, torch.tensor([0, 1], device=device))
                rows.append({"backbone": backbone, "mode": mode, "kept": kept, **found})
                table.add_row(backbone, mode, kept, *(f"{value:.1e}" for value in found.values()))
    write("parity", device, args, rows=rows)
    show(f"Differences of the executions, {on(hardware(device))}", table)


if __name__ == "__main__":
    main()
