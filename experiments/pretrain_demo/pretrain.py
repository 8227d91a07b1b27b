"""Pretrain the demo's small ViT on CIFAR-10 and write the weights that ship with pcvpt.

    python experiments/pretrain_demo/pretrain.py --epochs 16

Supervised, from scratch, on the 50,000 training images; the 10,000 test images only measure it.
Writes ``vit_demo.safetensors`` (float16, timm's parameter names, no head) and ``log.csv`` beside
this file; copy the former to ``pcvpt/models/assets/`` to ship it.
"""

import argparse
import csv
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from assets import cifar10

ARCHITECTURE = {"img_size": 32, "patch_size": 8, "embed_dim": 160, "depth": 6, "num_heads": 5}


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, flip, brighten, and (30 %) grey uint8 images (b, 3, h, w) at random."""
    b, _, h, w = images.shape
    x = F.pad(images.float() / 255, (4, 4, 4, 4), mode="reflect")
    top, left = torch.randint(0, 9, (2, b), generator=generator)
    rows = top[:, None] + torch.arange(h)
    columns = left[:, None] + torch.arange(w)
    flip = torch.rand(b, generator=generator) < 0.5
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    x = x[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
    grey = (torch.rand(b, generator=generator) < 0.3)[:, None, None, None]
    x = torch.where(grey, x.mean(1, keepdim=True), x)
    contrast, brightness = 1 + 0.4 * (torch.rand(2, b, 1, 1, 1, generator=generator) - 0.5)
    x = ((x - 0.5) * contrast + 0.5) * brightness
    return normalize(x)


def normalize(x: Tensor) -> Tensor:
    """Map [0, 1] to [-1, 1], the mean and deviation of 0.5 that the shipped model states."""
    return (x - 0.5) / 0.5


@torch.no_grad()
def accuracy(model: VisionTransformer, images: Tensor, labels: Tensor) -> float:
    """Percent of ``images`` (n, 3, h, w, uint8) that ``model`` labels rightly."""
    model.eval()
    hits = 0
    for x, y in zip(images.split(500), labels.split(500), strict=True):
        hits += int((model(normalize(x.float() / 255)).argmax(1) == y).sum())
    model.train()
    return 100 * hits / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    arrays = cifar10()
    x, y, test_x, test_y = (torch.from_numpy(a.copy()) for a in arrays)
    x, test_x = x.permute(0, 3, 1, 2).contiguous(), test_x.permute(0, 3, 1, 2).contiguous()

    model = VisionTransformer(**ARCHITECTURE, num_classes=10)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, weight_decay=args.weight_decay, betas=(0.9, 0.98)
    )
    steps = args.epochs * (len(y) // args.batch)
    warmup = len(y) // args.batch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(1.0, s / steps)))),
    )
    with (HERE / "log.csv").open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(["epoch", "train_loss", "test_accuracy_percent", "seconds"])
        start = time.perf_counter()
        for epoch in range(1, args.epochs + 1):
            losses = []
            order = torch.randperm(len(y), generator=generator)
            for index in order.split(args.batch)[: len(y) // args.batch]:
                loss = F.cross_entropy(model(augment(x[index], generator)), y[index])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            mean = sum(losses) / len(losses)
            seconds = time.perf_counter() - start
            percent = accuracy(model, test_x, test_y)
            log.writerow([epoch, f"{mean:.4f}", f"{percent:.2f}", f"{seconds:.0f}"])
            file.flush()
            print(
                f"epoch {epoch}: loss {mean:.4f}, test {percent:.2f} %, {seconds:.0f} s", flush=True
            )
            weights = {
                k: v.half().contiguous()
                for k, v in model.state_dict().items()
                if not k.startswith("head.")
            }
            save_file(
                weights,
                HERE / "vit_demo.safetensors",
                metadata={"source": "pcvpt experiments/pretrain_demo", "data": "CIFAR-10 train"},
            )


if __name__ == "__main__":
    main()
