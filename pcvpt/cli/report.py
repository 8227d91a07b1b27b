"""``pcvpt report RUN...``: the answer of finished runs, in one table, in words, and as a page."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pcvpt.analysis.report_page import draw_model, drawn_of, write_report
from pcvpt.analysis.stages import answer, stage_table
from pcvpt.analysis.tables import console
from pcvpt.cli.analyze.trained_model import open_model
from pcvpt.models.evaluation_mode import evaluating
from pcvpt.runs.folder import REPORT, adapters_of, find_run, require_finished
from pcvpt.training.metrics import answers


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt report``; return the exit status. A UsageError refuses unfinished runs."""
    parser = argparse.ArgumentParser("pcvpt report", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="Folder of a finished run.")
    names = parser.parse_args(arguments or ["--help"]).runs
    runs = [require_finished(find_run(name)) for name in names]
    for run in runs:
        write_report(run / REPORT, [run], drawn_of(run) or _draw(run))
    page, first = runs[0] / REPORT, runs[0]
    if len(runs) > 1:
        page = Path(os.path.commonpath([run.resolve() for run in runs])) / REPORT
        write_report(page, runs)
    console().print(stage_table(runs))
    console().print(answer(runs), highlight=False)
    for line in (
        f"Report: {os.path.relpath(page)}",
        *(f"Adapter: {file}" for file in adapters_of(first)),
        "Try next:",
        f"  pcvpt predict {first} --data.predict_images FOLDER --predictions out.csv",
        f"  pcvpt analyze attention {first}",
        f"  tensorboard --logdir {first.parent.parent}",
    ):
        console().print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _draw(run: Path) -> str:
    trained = open_model(run)
    if not trained.data.splits.val:
        return ""
    model, data = trained.model, trained.data
    with evaluating(model):
        shown = ((x, *answers(model(x), labels)) for x, labels in trained.batches("val"))
        return draw_model(model, shown, data.class_names, data.preprocessing)
