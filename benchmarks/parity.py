"""How far apart the two executions of the same model are, in float32.

    python benchmarks/parity.py

Prints the largest difference of logits and of prompt gradients relative to the largest value, for
several families, Deep and Shallow, with all prompts and with a ragged choice of them.
"""

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

import pcvpt

BACKBONES = {
    "vit_base_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {"img_size": 224},
    "vit_base_patch16_gap_224": {},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_siglip_224": {},
    "vit_small_patch16_dinov3": {"img_size": 224},
    "beit_base_patch16_224": {},
    "swin_tiny_patch4_window7_224": {},
}


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    first, second = first.detach(), second.detach()
    return float((first - second).abs().max() / first.abs().max())


def main() -> None:
    torch.manual_seed(0)
    table = Table("backbone", "mode", "prompts", "logits", "prompt gradients")
    for backbone, options in BACKBONES.items():
        for mode in ("deep", "shallow"):
            model = pcvpt.create_model(backbone, 10, 50, mode=mode, pretrained=False, **options)
            images = torch.randn(2, 3, *model.patch_embed.img_size)
            for kept in ("all", "ragged"):
                if kept == "ragged":
                    mask = torch.rand(model.prompts.keep.shape) < 0.3
                    if mode == "deep":
                        mask[0] = False
                    model.prompts.apply_mask(list(mask))
                results = []
                for execution in ("tokens", "prefix"):
                    model.execution = execution
                    logits = model(images)
                    loss = F.cross_entropy(logits, torch.tensor([0, 1]))
                    gradients = torch.autograd.grad(loss, list(model.prompts.parameters()))
                    results.append((logits, model.prompts.stack(gradients)))
                cells = [f"{difference(a, b):.1e}" for a, b in zip(*results, strict=True)]
                table.add_row(backbone, mode, kept, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
