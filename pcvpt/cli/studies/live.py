"""What a person sees of a sweep: a line for each event and, on a terminal, a table that moves."""

import contextlib
import time
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from pcvpt.analysis.tables import console, table_of
from pcvpt.cli.studies.engine import State, val_accuracy
from pcvpt.cli.studies.progress import epochs_of, schedule_of
from pcvpt.cli.studies.workers import LOG, Job


class Display:
    """Shows the runs of a sweep: how many are done, and for those that run phase and time left.

    They have their folders in ``pool``. The sweep keeps ``state`` up to date. Within the context
    ``live`` a table is shown; what is no terminal gets the lines alone.
    """

    def __init__(self, pool: Path) -> None:
        self.state = State()
        self._accuracy, self._begun = val_accuracy(pool), time.time()
        self._before: int | None = None  # runs that were done at the beginning
        self._first: dict[str, tuple[float, int]] = {}  # when a run was seen first, and its epochs
        self._console = to = console()
        live = Live(get_renderable=self._table, console=to, refresh_per_second=0.5, transient=True)
        self.live = live if to.is_terminal else contextlib.nullcontext()

    def tell(self, line: str) -> None:
        """Print ``line`` above the table."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        state, rows = self.state, []
        for key, since in list(state.since.items()):
            job = state.jobs[key]
            with contextlib.suppress(OSError):
                if (job.folder / LOG).stat().st_mtime >= since:
                    rows.append((job.name, *self._progress(job)))
        if self._before is None:
            self._before = state.ended
        ended, known = state.ended, len(state.jobs)
        done = f"{ended} of {known} known runs are done, {len(rows)} run, "
        done += f"{len(state.since) - len(rows)} wait, {len(state.failures)} failed"
        if ended > self._before:
            each = (time.time() - self._begun) / (ended - self._before)
            done += f"; about {_told((known - ended) * each)} left"
        columns = "runs now", "epoch", "val accuracy", "time left"
        shown = [dict(zip(columns, row, strict=True)) for row in rows or [("", "", "", "")]]
        return table_of(shown, done, self._best())

    def _progress(self, job: Job) -> tuple[str, str, str]:
        """Return phase and epoch, accuracy on val, and time left."""
        rows, schedule = epochs_of(job.folder), schedule_of(job.folder)
        if not rows or schedule is None:
            return "begins", "", ""
        now, first = time.time(), self._first.setdefault(job.run.key, (time.time(), len(rows)))
        further, epochs = len(rows) - first[1], int(rows[-1]["epoch"]) + 1
        left = (now - first[0]) / further * (schedule.total_epochs - epochs) if further else None
        accuracy: Any = next((row["val/accuracy"] for row in rows[::-1] if row["val/accuracy"]), "")
        return (
            f"{rows[-1]['phase']} {epochs}/{schedule.total_epochs}",
            f"{100 * float(accuracy):.1f} %" if accuracy else "",
            "" if left is None else _told(left),
        )

    def _best(self) -> str | None:
        """Return which finished run is best on val. Test images are not looked at."""
        jobs, done = list(self.state.jobs.items()), self.state.done
        ended = [job for key, job in jobs if (key, job.stages) in done]
        # From files that are read once.
        known = [(self._accuracy(job.run, False), job.name) for job in ended]
        found = [(value, name) for value, name in known if value is not None]
        return f"best on val so far: {max(found)[1]}, {max(found)[0]:.1f} %" if found else None


def _told(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes / 60:.1f} h" if minutes >= 100 else f"{minutes:.0f} min"
