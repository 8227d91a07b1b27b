"""How far a run is, by the table of epochs in its folder, and whether a search stops it early."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pcvpt.cli.yaml_file import read_mapping
from pcvpt.runs.folder import CONFIG, read_epochs, run_to_resume

if TYPE_CHECKING:
    from pcvpt.training.phases import Schedule

STOPPED = "stopped-early"
"""Name of the file in the folder of a candidate that a search has stopped."""

_FACTOR = 4  # one of so many goes on


def epochs_of(folder: Path) -> list[dict[str, str]]:
    """Return the rows of the newest run in ``folder``, one for each epoch that is on disk."""
    run = run_to_resume(folder)
    return [] if run is None else read_epochs(run)


def schedule_of(folder: Path) -> "Schedule | None":
    """Return the epochs of the newest run in ``folder``; None before its first checkpoint."""
    from pcvpt.callbacks import PromptCondensation  # imports torch

    run = run_to_resume(folder)
    if run is None:
        return None
    return PromptCondensation(**read_mapping(run / CONFIG)["condense"]).schedule


class Halving(NamedTuple):
    """Asynchronous successive halving (ASHA; Li et al. 2020, arXiv 1810.05934) of candidates.

    After ``grace`` epochs of prompt training, after four times as many, and so on, a candidate goes
    on if it is in the best quarter of those that have come as far, by the last validation before
    that. Once its prompts are trained, it is not stopped any more.
    """

    grace: int  # epochs before the first stop
    rivals: tuple[Path, ...]  # folders of all candidates

    def stops(self, folder: Path) -> bool:
        """Return whether the candidate in ``folder`` is stopped where it is now."""
        schedule, rows = schedule_of(folder), epochs_of(folder)
        if schedule is None or not self.grace <= len(rows) < schedule.prompt_epochs:
            return False
        own, rung = _accuracies(rows), self.grace
        rivals = [_accuracies(epochs_of(rival)) for rival in self.rivals]
        while rung <= len(rows):
            found = [rival.get(rung, -math.inf) for rival in rivals]
            better = sum(value > own.get(rung, math.inf) for value in found)
            if better >= max(1, sum(map(math.isfinite, found)) // _FACTOR):
                return True
            rung *= _FACTOR
        return False


def _accuracies(rows: Iterable[dict[str, str]]) -> dict[int, float]:
    """Return the last validation accuracy by the number of epochs of prompt training."""
    found, last = {}, ""
    for row in rows:
        last = row.get("val/accuracy") or last
        if last and row["phase"] == "prompt":
            found[int(row["epoch"]) + 1] = float(last)
    return found
