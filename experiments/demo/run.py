"""Five seeds of the demo: all prompts, 12 of 120 right after merging, and fine-tuned; a probe.

python experiments/demo/run.py [SEED ...]

Test accuracy in percent goes to results.json; what is there is not run again.
"""

import json
import statistics
import sys
from pathlib import Path

from pcvpt.cli.main import main
from pcvpt.runs.folder import is_finished

RUNS, RESULTS = Path("runs/demo_seeds"), Path(__file__).resolve().with_name("results.json")
QUIET = ("--trainer.enable_progress_bar", "false")
STAGES = {"prompt-last": "all 120 prompts", "masked": "merged to 12", "finetune-last": "fine-tuned"}
PROBE = ("--config", "linear.yaml", "--model.prompt.base_lr", "0.3")  # the probe's best on val


def run(seed: int) -> dict[str, float]:
    """Return the test accuracies of a seed in percent."""
    found = {}
    for name, options, stages in (
        (f"demo-{seed}", (), STAGES),
        (f"probe-{seed}", PROBE, {"prompt-last": "linear probe"}),
    ):
        folder = RUNS / name / "version_0"
        if not is_finished(folder):
            seeded = ("--seed_everything", str(seed), "--data.init_args.seed", str(seed))
            place = ("--output_dir", str(RUNS), "--name", name)
            main(["fit", "--config", "demo.yaml", *options, *seeded, *place, *QUIET])
        for stage, title in stages.items():
            file, checkpoint = folder / f"test-{stage}.json", folder / f"checkpoints/{stage}.ckpt"
            if not file.is_file():
                main(["test", str(folder), "--ckpt_path", str(checkpoint), *QUIET])
            found[title] = round(100 * json.loads(file.read_text())["test/accuracy"], 2)
    return found


if __name__ == "__main__":
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for seed in sys.argv[1:] or ["0", "1", "2", "3", "4"]:
        if seed not in results:
            results[seed] = run(int(seed))
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for title in ("linear probe", *STAGES.values()):
        values = [by_title[title] for by_title in results.values()]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{title:20} {statistics.mean(values):.1f} ± {spread:.1f} ({len(values)} seeds)")
