"""Wall time of one whole VTAB-1k task, and where it goes.

    python benchmarks/task.py [--prompt_epochs 100] [--finetune_epochs 20] [options of pcvpt fit]

Writes a task's 1,000 training images (val is 200 of them) and its test images as JPEG files, and
runs the command on them in new processes: ``pcvpt fit`` with the task's own config, trained
on all 1,000, condensed to 30 % and fine-tuned, then ``pcvpt test``. Weights are random, which costs
as much as any. Parts are Lightning's profiler's; ``condensing`` is the scoring pass and the
accuracies before and after masking, ``evaluation`` everything else on val, and the test; ``rest``
holds the start of two processes, checkpoints, logs and the closing report. On a GPU the profiler
has to wait for it, so there the wall time is of a further run without.

With fewer epochs than 100 + 20, or fewer images, the whole is projected from the time of each;
validations within a phase are left out. So is VTAB-1k, 19 tasks and 5 seeds, among which
only the published number of test images is taken to differ.
"""

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from arithmetic import multiply_accumulates
from report import hardware, on, options, prepare, show, write
from rich.table import Table
from synthetic import write_vtab
from timing import Peak

import pcvpt
from pcvpt.data import TASKS

EPOCHS = (100, 20)
TASKS_AND_SEEDS = (19, 5)
KEEP = 0.3
_TUNER, _STRATEGY = "[LightningModule]PromptTuner.", "[Strategy]SingleDeviceStrategy."
_CONDENSATION = "[Callback]PromptCondensation."
_TESTING = (f"{_STRATEGY}test_step", ".test_next", ".batch_to_device", ".prepare_data")


@dataclass
class Ran:
    """What came out of a run.

    Args:
        fit: Seconds of ``pcvpt fit``.
        test: Seconds of ``pcvpt test``.
        profiles: Of both commands: [seconds, number of calls] by the profiler's name of an action.
        results: Content of the file results.json.
        folder: Run folder.
    """

    fit: float
    test: float
    profiles: list[dict[str, list[float]]]
    results: dict[str, Any]
    folder: Path


def run(args: argparse.Namespace, root: Path, further: Sequence[str], profile: bool) -> Ran:
    """Run ``fit`` and ``test`` on the task in ``root``."""
    runs = root / ("profiled" if profile else "timed")
    fit = ["fit", "--config", f"{args.task}.yaml", "--data.root", str(root)]
    fit += ["--data.layout=lists", "--data.split=train800val200", "--model.pretrained=false"]
    fit += [f"--condense.prompt_epochs={args.prompt_epochs}", f"--condense.keep={KEEP}"]
    fit += [f"--condense.finetune_epochs={args.finetune_epochs}"]
    fit += ["--output_dir", str(runs), *further]
    fit += [f"--trainer.accelerator={'gpu' if args.device == 'cuda' else 'cpu'}"]
    seconds, profiles = [], []
    for arguments in fit, ["test", str(runs / args.task)]:
        file = root / f"{arguments[0]}.json"
        if profile:
            arguments = [*arguments, "--trainer.profiler=profiling.SummingProfiler"]
            arguments.append(f"--trainer.profiler.file={file}")
        seconds.append(_command(arguments, args.threads))
        profiles.append(json.loads(file.read_text()) if profile else {})
    (folder,) = (runs / args.task).glob("version_*")
    results = json.loads((folder / "results.json").read_text())
    return Ran(seconds[0], seconds[1], profiles, results, folder)


def _command(arguments: Sequence[str], threads: int | None) -> float:
    """Run ``pcvpt`` in a new process and return its seconds."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pcvpt", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"pcvpt {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def parts(ran: Ran) -> dict[str, float]:
    """Divide the wall time of fit and test by what the profiler has seen."""

    def total(*names: str) -> float:
        return sum(profile[n][0] for profile in ran.profiles for n in profile if n.endswith(names))

    forward, backward = total(f"{_STRATEGY}training_step"), total(f"{_STRATEGY}backward")
    found = {
        "data": total(
            *("_dataloader", "_dataloader_next", ".val_next", ".test_next", ".batch_to_device"),
            *(".prepare_data",),
        ),
        "forward": forward,
        "backward": backward,
        "optimizer": total(f"{_TUNER}optimizer_step") - forward - backward,
        "evaluation": total(
            *(f"{_STRATEGY}{stage}_step" for stage in ("validation", "test")),
            f"{_CONDENSATION}on_train_end",
        ),
        "condensing": total(f"{_CONDENSATION}on_train_epoch_start"),
    }
    return {**found, "rest": ran.fit + ran.test - sum(found.values())}


def projected(args: argparse.Namespace, timed: Ran, profile: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of the task in full length, and of all of VTAB-1k.

    Args:
        args: Numbers of epochs and images of the run.
        timed: The run.
        profile: Profile of a test.
    """
    phases = [timed.results[f"seconds_{name}"] for name in ("prompt", "finetune", "condense")]
    ran = args.prompt_epochs, args.finetune_epochs, 1
    share = 1000 / (args.train + args.val)
    epochs = zip(phases, ran, (*EPOCHS, 1), strict=True)
    fit = timed.fit - sum(phases) + sum(share * p / n * full for p, n, full in epochs)
    reading = sum(profile[name][0] for name in profile if name.endswith(_TESTING))
    each = reading / args.test
    test = timed.test - reading  # the start of the command
    rows = [task for task in TASKS.values() if task.suite == "vtab"]
    assert len(rows) == TASKS_AND_SEEDS[0]
    tests = sum(test + each * task.test for task in rows)
    return {
        "task_s": fit + test + each * TASKS[args.task].test,
        "vtab_s": TASKS_AND_SEEDS[1] * (len(rows) * fit + tests),
    }


def floor(args: argparse.Namespace, folder: Path, device: torch.device) -> dict[str, float]:
    """Return the multiply-accumulates of the run, and the seconds they take at the peak rate."""
    whole = yaml.safe_load((folder / "config.yaml").read_text())
    config, every = whole["model"], whole["trainer"]["check_val_every_n_epoch"]
    size = {} if config["image_size"] is None else {"img_size": config["image_size"]}
    model = pcvpt.create_model(
        config["backbone"],
        TASKS[args.task].num_classes,
        config["num_prompts"],
        prompt_dropout=config["prompt_dropout"],
        pretrained=False,
        **size,
        **(config["timm_kwargs"] or {}),
    )
    kept = copy.deepcopy(model)
    scores = pcvpt.score_prompts(kept, [], "random")
    kept.prompts.apply_mask(pcvpt.select_prompts(scores, KEEP))
    images = torch.randn(2, 3, *model.patch_embed.img_size)

    def of_image(model: Any, train: bool) -> int:
        def work(count: int) -> None:
            model.train(train)
            with torch.set_grad_enabled(train):
                logits = model(images[:count])
                if train:
                    F.cross_entropy(logits, torch.zeros(count, dtype=torch.long)).backward()

        one, two = (multiply_accumulates(partial(work, count)) for count in (1, 2))
        return two - one

    trained, val = args.train + args.val, args.val
    macs = trained * (args.prompt_epochs + 1) * of_image(model, True)  # once more to score
    macs += trained * args.finetune_epochs * of_image(kept, True)
    before, after = (math.ceil(n / every) for n in (args.prompt_epochs, args.finetune_epochs))
    macs += val * before * of_image(model, False)
    macs += (val * (1 + after) + args.test) * of_image(kept, False)  # once right after masking
    mixed = "bf16" in str(args.precision)
    peak = Peak(device, torch.bfloat16 if mixed else torch.float32)
    for _ in range(5):
        peak()
    return {"macs": macs, "peak_macs_per_s": peak.rate, "floor_s": macs / peak.rate}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--task", default="dtd", choices=[n for n, t in TASKS.items() if t.rules[0]]
    )
    parser.add_argument("--train", type=int, default=800, help="Training images.")
    parser.add_argument(
        "--val", type=int, default=200, help="Validation images. They are trained on as well."
    )
    parser.add_argument(
        "--test", type=int, help="Test images. Default: as published on a GPU, 200 on a CPU."
    )
    parser.add_argument(
        "--prompt_epochs",
        type=int,
        help="Epochs of prompt training. Default: 100 on a GPU, 1 on a CPU.",
    )
    parser.add_argument(
        "--finetune_epochs",
        type=int,
        help="Epochs of fine-tuning. Default: 20 on a GPU, 1 on a CPU.",
    )
    parser.add_argument(
        "--precision", default="32-true", help="Precision of Lightning, such as bf16-mixed."
    )
    args, further = parser.parse_known_args(arguments)
    device = prepare(args)
    gpu = device.type == "cuda"
    args.test = args.test or (TASKS[args.task].test if gpu else 200)
    args.prompt_epochs = args.prompt_epochs or (EPOCHS[0] if gpu else 1)
    args.finetune_epochs = args.finetune_epochs or (EPOCHS[1] if gpu else 1)
    further.append(f"--trainer.precision={args.precision}")
    counts = {"train800": args.train, "val200": args.val, "test": args.test}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_vtab(root / args.task, TASKS[args.task].num_classes, counts, (400, 300))
        profiled = run(args, root, further, profile=True)
        timed = run(args, root, further, profile=False) if gpu else profiled
        bound = floor(args, profiled.folder, device)
    measured = {
        "seconds": {"fit": timed.fit, "test": timed.test},
        "parts": parts(profiled),
        "phases": {k: v for k, v in timed.results.items() if k.startswith("seconds_")},
        "projected": projected(args, timed, profiled.profiles[1]),
        "fit_options": further,
        **bound,
    }
    write("task", device, args, **measured)
    tell(measured, args, on(hardware(device)))


def tell(measured: dict[str, Any], args: argparse.Namespace, where: str) -> None:
    """Print what was measured, and what is projected from it."""
    whole, divided = sum(measured["seconds"].values()), sum(measured["parts"].values())
    epochs = f"{args.prompt_epochs} + {args.finetune_epochs} epochs"
    table = Table()
    for column in ("part", "s", "of the whole"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, taken in measured["parts"].items():
        table.add_row(name, f"{taken:,.1f}", f"{taken / divided:.1%}")
    table.add_row("whole", f"{whole:,.1f}", f"{whole / measured['floor_s']:.2f} of its floor")
    show(f"{args.task}, {epochs}, {where}", table)
    task, vtab = (measured["projected"][name] for name in ("task_s", "vtab_s"))
    print(
        f"Projected, not measured: {EPOCHS[0]} + {EPOCHS[1]} epochs and the published test take "
        f"{task / 60:,.1f} min; {TASKS_AND_SEEDS[0]} tasks and {TASKS_AND_SEEDS[1]} seeds "
        f"{vtab / 3600:,.1f} h"
    )


if __name__ == "__main__":
    main()
