"""Two processes on the CPU do what one does with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcvpt.cli import main

CONFIG = """
model:
  num_prompts: 6
  prompt: &recipe
    optimizer: {class_path: torch.optim.SGD, init_args: {momentum: 0.9}}
    base_lr: 0.5
    weight_decay: 0.01
    warmup_epochs: 1
  finetune: *recipe
trainer:
  accelerator: cpu
  check_val_every_n_epoch: 1
  limit_train_batches: 4
  limit_val_batches: 2
  num_sanity_val_steps: 0
  enable_model_summary: false
data:
  init_args:
    augment: true
condense:
  keep: [0.3, 0.1]
  prompt_epochs: 2
  finetune_epochs: 1
"""
STAGES = {  # with the number of prompts kept of 36
    "prompt-last": 36,
    **{"masked_0.3": 11, "finetune_0.3-last": 11},
    **{"masked_0.1": 4, "finetune_0.1-last": 4},
}


def _fit(folder: Path, name: str, batch_size: int) -> list[str]:
    return [
        *("fit", "--config", "demo.yaml", "--config", str(folder / "two.yaml")),
        *("--output_dir", str(folder), "--name", name, f"--data.batch_size={batch_size}"),
    ]


@pytest.mark.timeout(260)
def test_two_processes_keep_and_learn_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(CONFIG)
    both = subprocess.run(
        [
            *(sys.executable, "-m", "pcvpt", *_fit(tmp_path, "both", batch_size=8)),
            *("--trainer.strategy=ddp", "--trainer.devices=2"),
        ],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert both.returncode == 0, both.stderr
    assert "distributed_backend=gloo" in both.stderr
    assert both.stdout.count("Result on the validation images") == 1
    main(_fit(tmp_path, "one", batch_size=16))
    assert [path.name for path in (tmp_path / "both").iterdir()] == ["version_0"]
    assert len(list(tmp_path.rglob("results.json"))) == 2
    for stage, kept in STAGES.items():
        one, two = (
            torch.load(
                tmp_path / name / "version_0" / "checkpoints" / f"{stage}.ckpt", weights_only=True
            )["state_dict"]
            for name in ("one", "both")
        )
        assert torch.equal(one["model.prompts.keep"], two["model.prompts.keep"])
        assert int(one["model.prompts.keep"].sum()) == kept
        for name in one:
            torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.timeout(260)
def test_a_test_on_three_processes_counts_each_image_once(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(CONFIG)
    short = ["--trainer.limit_train_batches=1", "--condense.keep=0.3"]
    main([*_fit(tmp_path, "run", batch_size=16), *short])
    run = tmp_path / "run" / "version_0"
    found = []
    for options in [], ["--trainer.strategy=ddp", "--trainer.devices=3"]:
        subprocess.run(
            [
                *(sys.executable, "-m", "pcvpt", "test", str(run), *options),
                "--data.batch_size=32",  # 1,000 images: 334, 333 and 333, eleven batches on each
            ],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            check=True,
            timeout=240,
        )
        found.append(json.loads((run / "test-finetune-best.json").read_text()))
    one, three = found
    assert one["test/accuracy"] == three["test/accuracy"]
    assert one["test/accuracy_per_class"] == pytest.approx(three["test/accuracy_per_class"])
    assert one["test/loss"] == pytest.approx(three["test/loss"], rel=1e-5)
