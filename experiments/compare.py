"""Linear probe, VPT-Deep and Prompt Condensation on one task, all through ``pcvpt fit``.

For each seed: a linear probe; one training of all prompts; from its last checkpoint, condensations
to several budgets by the attention gate and by a random choice of as many prompts, each with the
same fine-tuning; and all prompts trained on for as long as the fine-tuning, so that more training
can't pass for condensation. Test accuracy is that of the last epoch; nothing is chosen by it.
"""

import fcntl
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCORES = ("gate", "random")


@dataclass
class Comparison:
    """One task's runs and their results; what is in the results file is not run again.

    Args:
        config: the task's YAML.
        runs: folder of the run folders.
        results: JSON file, method → seed → test accuracy in percent; written after each figure.
        options: further arguments of every fit.
        linear_options: further arguments of the linear probe's fit.
    """

    config: str
    runs: Path
    results: Path
    options: Sequence[object] = ()
    linear_options: Sequence[object] = ()

    def run(self, seeds: Sequence[int], keeps: Sequence[float] = (0.1, 0.3, 0.5)) -> None:
        """Run what is missing for ``seeds`` and budgets ``keeps``; print the means."""
        for seed in seeds:
            self._one_seed(seed, keeps)
        for method, by_seed in self._load().items():
            values = list(by_seed.values())
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            mean = statistics.mean(values)
            print(f"{method:32} {mean:6.2f} ± {spread:.2f}  ({len(values)} seeds)")

    def _one_seed(self, seed: int, keeps: Sequence[float]) -> None:
        seeded = ("--seed_everything", seed, "--data.init_args.seed", seed)
        if self._missing("linear probe", seed):
            options = ("--config", "linear.yaml", *seeded, *self.linear_options)
            run = self._fit(f"linear-{seed}", *options)
            self._note("linear probe", seed, self._test(run, "prompt-last"))
        last = self.runs / f"vpt-{seed}" / "version_0" / "checkpoints" / "prompt-last.ckpt"
        if self._missing("all prompts", seed) or not last.is_file():
            run = self._fit(f"vpt-{seed}", "--config", "vpt.yaml", *seeded)
            self._note("all prompts", seed, self._test(run, "prompt-last"))
        for keep in (*keeps, 1.0):
            for score in SCORES if keep < 1 else SCORES[:1]:
                method = f"{score} {keep:.0%}" if keep < 1 else "all prompts"
                if not self._missing(f"{method}, fine-tuned", seed):
                    continue
                chosen = ("--condense.keep", keep, "--condense.score", score)
                options = (*seeded, *chosen, "--condense.seed", seed, "--ckpt_path", last)
                run = self._fit(f"{score}-{keep}-{seed}", *options)
                if keep < 1:
                    self._note(f"{method}, masked", seed, self._test(run, "masked"))
                self._note(f"{method}, fine-tuned", seed, self._test(run, "finetune-last"))

    def _fit(self, name: str, *arguments: object) -> Path:
        """Run ``pcvpt fit`` afresh into run folder ``name``; return the folder."""
        shutil.rmtree(self.runs / name, ignore_errors=True)
        place = ("--output_dir", self.runs, "--name", name)
        _pcvpt("fit", "--config", self.config, *self.options, *arguments, *place)
        return self.runs / name / "version_0"

    @staticmethod
    def _test(run: Path, checkpoint: str) -> float:
        """Return the test accuracy in percent of ``checkpoint`` of ``run``."""
        _pcvpt("test", run, "--ckpt_path", run / "checkpoints" / f"{checkpoint}.ckpt")
        figures = json.loads((run / f"test-{checkpoint}.json").read_text())
        return round(100 * float(figures["test/accuracy"]), 2)

    def _load(self) -> dict[str, dict[str, float]]:
        return json.loads(self.results.read_text()) if self.results.is_file() else {}

    def _missing(self, method: str, seed: int) -> bool:
        return str(seed) not in self._load().get(method, {})

    def _note(self, method: str, seed: int, value: float) -> None:
        with self.results.with_suffix(".lock").open("w") as lock:  # seeds may run side by side
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = self._load()
            found.setdefault(method, {})[str(seed)] = value
            self.results.write_text(json.dumps(found, indent=2) + "\n")


def _pcvpt(*arguments: object) -> None:
    command = [sys.executable, "-m", "pcvpt", *map(str, arguments)]
    subprocess.run([*command], check=True)
