"""Prompts against their baselines on one task, all through ``pcvpt fit`` and ``pcvpt test``.

For each seed: a linear probe; VPT-Shallow; VPT-Deep, condensed to several budgets by a score and by
a random choice of as many prompts, each with the same fine-tuning; all prompts trained on for as
long as the fine-tuning, so that more training can't pass for condensation; and VPT-Deep trained
from scratch with as few prompts. Where a grid of learning rates is given, the rate of each method
is the one with the best validation accuracy on the first seed. Test accuracy is that of the last
epoch; nothing is chosen by it.

What has been run already is not run again, so a comparison may be interrupted.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcvpt.cli.main import main
from pcvpt.runs.folder import is_finished

SEARCHED = 0  # the seed whose validation images choose the learning rates


@dataclass
class Comparison:
    """One task's runs and their results.

    Args:
        config: Config file of the task.
        runs: Folder of the run folders.
        results: JSON file, written after each figure. ``test`` has method → seed → test accuracy in
            percent, ``kept`` the prompts that each block kept, ``search`` the validation accuracy
            of each rate that was tried.
        prompts: Prompts per block.
        keeps: Fractions of the prompts to keep. Also trained from scratch, where the number of
            prompts per block is whole.
        grid: Learning rates (``base_lr``) to choose from for all prompts. Default: the config's.
        scratch_grid: Learning rates for fewer prompts from scratch.
        linear_grid: Learning rates for the linear probe.
        finetune_grid: Learning rates for fine-tuning.
        scores: Scores that choose the prompts.
        options: Further arguments of every fit.
    """

    config: str
    runs: Path
    results: Path
    prompts: int
    keeps: Sequence[float] = (0.1, 0.2, 0.3, 0.5)
    grid: Sequence[float] = ()
    scratch_grid: Sequence[float] = ()
    linear_grid: Sequence[float] = ()
    finetune_grid: Sequence[float] = ()
    scores: Sequence[str] = ("gate", "random")
    options: Sequence[object] = ()

    def run(self, seeds: Sequence[int]) -> None:
        """Run what is missing for ``seeds``, and print the means."""
        for seed in seeds:
            self._one_seed(seed)
        for method, by_seed in self._load()["test"].items():
            values = list(by_seed.values())
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            mean = statistics.mean(values)
            print(f"{method:32} {mean:6.2f} ± {spread:.2f}  ({len(values)} seeds)", flush=True)

    def _one_seed(self, seed: int) -> None:
        plain = ("--condense.keep", "null")
        linear = ("--config", "linear.yaml")
        run = self._searched("linear probe", "linear", seed, self.linear_grid, linear)
        self._test(run, "prompt-last", "linear probe", seed)
        shallow = ("--config", "shallow.yaml", *plain)
        run = self._searched("VPT-Shallow", "shallow", seed, self.grid, shallow)
        self._test(run, "prompt-last", "VPT-Shallow", seed)
        deep = self._searched("VPT-Deep", "deep", seed, self.grid, plain)
        self._test(deep, "prompt-last", "VPT-Deep", seed)
        for score in self.scores:
            self._condensed(score, deep, seed)
        run = self._tuned("all prompts", "all", deep, seed, [1.0], self.scores[0])
        self._test(run, "finetune-last", "VPT-Deep, trained on", seed)
        for keep in self.keeps:
            method, few = f"from scratch {keep:.0%}", keep * self.prompts
            if few < 1 or abs(few - round(few)) > 1e-6:
                continue
            fewer = (*plain, "--model.num_prompts", round(few))
            run = self._searched(method, f"scratch-{keep}", seed, self.scratch_grid, fewer)
            self._test(run, "prompt-last", method, seed)

    def compare_scores(
        self, seeds: Sequence[int], scores: Sequence[str], keeps: Sequence[float]
    ) -> None:
        """Condense what :meth:`run` has trained by further ``scores``, all with one fine-tuning.

        Its learning rate is the one that was chosen for the first of ``self.scores``.
        """
        known = self._load()["search"]
        deep = _best_of(known["VPT-Deep"])
        rate = _best_of(known[f"{self.scores[0]}, fine-tuning"])
        for seed in seeds:
            start = self.runs / f"deep-{deep}-{seed}" / "version_0"
            for score in scores:
                name = f"scored-{score}-{seed}"
                run = self._fit(name, seed, *_condense(start, list(keeps), score, seed, rate))
                self._test_budgets(run, score, seed)

    def _condensed(self, score: str, deep: Path, seed: int) -> None:
        """Condense ``deep`` to each budget by ``score``; test before and after fine-tuning."""
        run = self._tuned(score, score, deep, seed, list(self.keeps), score)
        self._test_budgets(run, score, seed)

    def _test_budgets(self, run: Path, score: str, seed: int) -> None:
        entries = json.loads((run / "results.json").read_text())["budgets"]
        for entry in entries:
            keep = entry["keep"]
            method = f"{score} {keep:.0%}"
            self._test(run, f"masked_{keep}", f"{method}, masked", seed)
            self._test(run, f"finetune_{keep}-last", f"{method}, fine-tuned", seed)
            self._note("kept", method, seed, entry["kept"])

    def _searched(
        self, method: str, name: str, seed: int, grid: Sequence[float], arguments: Sequence[object]
    ) -> Path:
        """Return the run of ``method`` with the rate of ``grid`` that is best on val."""

        def train(rate: float | None, seed: int) -> Path:
            chosen = () if rate is None else ("--model.prompt.base_lr", rate)
            rated = name if rate is None else f"{name}-{rate}"
            return self._fit(f"{rated}-{seed}", seed, *arguments, *chosen)

        def value(rate: float) -> float:
            return float(_results(train(rate, SEARCHED))["accuracy_before"])

        return train(self._best(method, grid, value), seed)

    def _tuned(
        self, method: str, name: str, deep: Path, seed: int, keeps: list[float], score: str
    ) -> Path:
        """Return the run that condenses ``deep``, with the rate of fine-tuning best on val."""

        def train(rate: float | None, seed: int) -> Path:
            start = self.runs / f"{deep.parent.name.rpartition('-')[0]}-{seed}" / deep.name
            rated = name if rate is None else f"{name}-{rate}"
            return self._fit(
                f"tuned-{rated}-{seed}", seed, *_condense(start, keeps, score, seed, rate)
            )

        def value(rate: float) -> float:
            found = _results(train(rate, SEARCHED))
            entries = found.get("budgets", [found])
            return statistics.mean(entry["accuracy_finetuned"] for entry in entries)

        return train(self._best(f"{method}, fine-tuning", self.finetune_grid, value), seed)

    def _best(self, method: str, grid: Sequence[float], value: Any) -> float | None:
        """Return the rate of ``grid`` with the highest ``value``, the lower one of equals."""
        if not grid:
            return None
        known = self._load()["search"].get(method, {})
        for rate in grid:
            if str(rate) not in known:
                self._note("search", method, rate, round(value(rate), 2))
        return _best_of(self._load()["search"][method])

    def _fit(self, name: str, seed: int, *arguments: object) -> Path:
        """Run ``pcvpt fit`` into run folder ``name`` unless it is there; return the folder."""
        run = self.runs / name / "version_0"
        if not is_finished(run):
            seeded = ("--seed_everything", seed, "--data.init_args.seed", seed)
            place = ("--output_dir", self.runs, "--name", name)
            quiet = ("--trainer.enable_progress_bar", "false")
            _pcvpt(
                *("fit", "--config", self.config, *self.options, *arguments, *seeded),
                *(*place, *quiet),
            )
        return run

    def _test(self, run: Path, checkpoint: str, method: str, seed: int) -> None:
        """Note the test accuracy in percent of ``checkpoint`` of ``run``, unless it is known."""
        if str(seed) in self._load()["test"].get(method, {}):
            return
        file = run / f"test-{checkpoint}.json"
        if not file.is_file():
            path = run / "checkpoints" / f"{checkpoint}.ckpt"
            _pcvpt("test", run, "--ckpt_path", path, "--trainer.enable_progress_bar", "false")
        accuracy = json.loads(file.read_text())["test/accuracy"]
        self._note("test", method, seed, round(100 * float(accuracy), 2))

    def _load(self) -> dict[str, dict[str, dict[str, Any]]]:
        empty: dict[str, Any] = {"test": {}, "kept": {}, "search": {}}
        return {**empty, **(json.loads(self.results.read_text()) if self.results.is_file() else {})}

    def _note(self, part: str, method: str, key: object, value: object) -> None:
        found = self._load()
        found[part].setdefault(method, {})[str(key)] = value
        self.results.write_text(json.dumps(found, indent=1) + "\n")


def _best_of(known: dict[str, float]) -> float:
    """Return the rate with the highest validation accuracy, the lowest of equals."""
    return float(max(sorted(known, key=float), key=lambda rate: known[rate]))


def _condense(
    trained: Path, keeps: list[float], score: str, seed: int, rate: float | None
) -> tuple[object, ...]:
    """Return the arguments that condense the run ``trained`` to ``keeps`` and fine-tune."""
    chosen = () if rate is None else ("--model.finetune.base_lr", rate)
    how = ("--condense.keep", json.dumps(keeps), "--condense.score", score)
    how = (*how, "--condense.method", "prune")
    checkpoint = trained / "checkpoints" / "prompt-last.ckpt"
    return (*how, "--condense.seed", seed, "--ckpt_path", checkpoint, *chosen)


def _results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def _pcvpt(*arguments: object) -> None:
    print("pcvpt", *arguments, flush=True)
    main([str(argument) for argument in arguments])
