"""Runs of the command in processes of their own, which may be killed."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

CONFIG = """
seed_everything: 7
model:
  backbone: vit_tiny_patch16_224
  pretrained: false
  image_size: 32
  timm_kwargs: {depth: 2, embed_dim: 24, num_heads: 2, patch_size: 8}
  num_prompts: 6
  prompt_dropout: 0.3
  prompt: &recipe
    optimizer: {class_path: torch.optim.AdamW}
    base_lr: 0.5
    weight_decay: 0.01
    warmup_epochs: 1
  finetune: *recipe
trainer:
  accelerator: cpu
  check_val_every_n_epoch: 1
  limit_train_batches: 6
  limit_val_batches: 2
  num_sanity_val_steps: 0
  enable_model_summary: false
  enable_progress_bar: false
data:
  init_args: {augment: true, num_workers: 0, batch_size: 8, resize: crop}
condense: {keep: [0.5, 0.3], prompt_epochs: 3, finetune_epochs: 2}
"""
OFTEN = """
trainer:
  callbacks:
    - class_path: pcvpt.callbacks.PhaseProgressBar
    - class_path: pcvpt.callbacks.RunRecord
    - class_path: pcvpt.callbacks.PhaseCheckpoint
      init_args: {every_n_steps: 4}
    - class_path: pcvpt.callbacks.RunSummary
"""
FINAL = ("prompt-last", "finetune_0.5-last", "finetune_0.3-last")


def _child(arguments: list[str], output: Path, sabotage: Callable[[], None] | None) -> None:
    from pcvpt.cli.main import main

    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of workers, as is usual
    if sabotage:
        sabotage()
    main(arguments)


class Runs:
    """Starts the same run again and again, in folders of their own, within ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # It imports once what each start needs; nothing of torch has run there, so forks are safe.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pcvpt.cli.main"])
        (folder / "run.yaml").write_text(CONFIG)
        (folder / "often.yaml").write_text(OFTEN)

    def start(
        self,
        name: str,
        *options: str,
        often: bool = False,
        sabotage: Callable[[], None] | None = None,
    ) -> multiprocessing.process.BaseProcess:
        """Start the run ``name`` in a process.

        Args:
            name: of the run.
            options: of the command.
            often: save every four steps.
            sabotage: called in the process before; what it patches holds there alone.
        """
        arguments = ["fit", "--config", "demo.yaml", "--config", str(self.folder / "run.yaml")]
        if often:
            arguments += ["--config", str(self.folder / "often.yaml")]
        arguments += ["--output_dir", str(self.folder), "--name", name, *options]
        process: Any = self.context.Process(
            target=_child, args=(arguments, self.folder / f"{name}.txt", sabotage)
        )
        process.start()
        return process  # type: ignore[no-any-return]

    def finish(self, *arguments: Any, **options: Any) -> int:
        """Start a run, wait for its end and return its exit status."""
        process = self.start(*arguments, **options)
        process.join(100)
        if process.exitcode is None:
            process.kill()
            pytest.fail(f"the run hangs: {self.said(arguments[0])}")
        return process.exitcode

    def said(self, name: str) -> str:
        """Return what all starts of ``name`` have printed."""
        return (self.folder / f"{name}.txt").read_text()

    def outcome(self, name: str) -> dict[str, Any]:
        """Return everything a run ends with, but for times: last checkpoints, and accuracies."""
        (run,) = (run for run in (self.folder / name).iterdir() if (run / "results.json").exists())
        found: dict[str, Any] = {}
        for stage in FINAL:
            file = run / "checkpoints" / f"{stage}.ckpt"
            if file.is_file():
                saved = torch.load(file, weights_only=True)
                parts = {part: saved[part] for part in ("state_dict", "optimizer_states")}
                found |= flat(parts, stage)
                found |= flat({"best": saved["callbacks"]["PhaseCheckpoint"]}, stage)
        report = saved["callbacks"]["PromptCondensation"]["report"]
        return found | {k: v for k, v in flat(report, "report").items() if "seconds" not in k}


def flat(value: Any, name: str) -> dict[str, Any]:
    """Return the leaves of nested dicts and lists by the way to them."""
    if isinstance(value, dict):
        pairs = [(f"{name}.{key}", inner) for key, inner in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{name}[{number}]", inner) for number, inner in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for way, inner in pairs for key, leaf in flat(inner, way).items()}


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Return the names of the leaves that differ in any bit."""
    return [
        name
        for name in sorted(one.keys() | two.keys())
        if name not in one
        or name not in two
        or not (
            torch.equal(
                torch.nan_to_num(one[name], nan=-1.0), torch.nan_to_num(two[name], nan=-1.0)
            )
            if isinstance(one[name], torch.Tensor)
            else one[name] == two[name]
        )
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def whole(runs: Runs) -> dict[str, Any]:
    """What the run that nobody interrupts ends with."""
    assert runs.finish("whole") == 0, runs.said("whole")
    return runs.outcome("whole")
