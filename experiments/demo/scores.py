"""Which score finds the prompts that matter? All methods on the runs that run.py has trained.

    python experiments/demo/scores.py [SEED ...]

For each seed's model with all prompts: the rank correlation of each score with exact removal of
single prompts (loss on the first 256 training images), and the test accuracy right after masking
to 10, 30 and 50 %, without fine-tuning. Scores see the training split only. Writes scores.json.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import get_args

import torch

import pcvpt
from pcvpt.analysis.agreement import rank_correlation
from pcvpt.condensation import Method

HERE = Path(__file__).resolve().parent
KEEPS = (0.1, 0.3, 0.5)


def trained_model(seed: int) -> torch.nn.Module:
    """Return the model of run.py's ``seed`` with all its prompts."""
    path = f"runs/demo_seeds/vpt-{seed}/version_0/checkpoints/prompt-last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    saved = checkpoint["pcvpt"]
    model = pcvpt.create_model(
        saved["backbone"], 10, saved["num_prompts"], mode=saved["mode"]
    ).eval()
    state = {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items()}
    model.load_state_dict(state, strict=False)
    return model


@torch.inference_mode()
def accuracy(model: torch.nn.Module, batches: list) -> float:
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return 100 * hits / sum(len(y) for _, y in batches)


def main() -> None:
    seeds = [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]
    results: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        model = trained_model(seed)
        task = pcvpt.data.DemoTask(batch_size=128)
        size = model.patch_embed.img_size
        half = (0.5, 0.5, 0.5)
        task.input_spec = pcvpt.data.InputSpec(size, half, half, "bilinear")
        train, test = (
            [task.on_after_batch_transfer(batch, 0) for batch in loader]
            for loader in (task.scoring_dataloader(), task.test_dataloader())
        )
        everything = list(model.prompts.keep.clone())
        exact = torch.stack(pcvpt.score_prompts(model, train[:2], "leave_one_out"))
        for method in get_args(Method):
            if method == "leave_one_out":
                scores = list(exact)
            else:
                scores = pcvpt.score_prompts(model, train, method, seed=seed)
            found = results.setdefault(method, {})
            agreement = rank_correlation(torch.stack(scores), exact.abs())
            found.setdefault("rank correlation with |exact removal|", []).append(agreement)
            for keep in KEEPS:
                model.prompts.apply_mask(pcvpt.select_prompts(scores, keep))
                masked = accuracy(model, test)
                found.setdefault(f"accuracy masked to {keep:.0%}", []).append(masked)
                model.prompts.apply_mask(everything)
        print(f"seed {seed}: all prompts {accuracy(model, test):.2f} %", flush=True)
    (HERE / "scores.json").write_text(json.dumps(results, indent=2) + "\n")
    for method, columns in results.items():
        cells = [f"{statistics.mean(v):6.2f}" for v in columns.values()]
        print(f"{method:14}", *cells)


if __name__ == "__main__":
    main()
