"""What an analysis leaves: a table on the terminal, a CSV, and figures."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pcvpt.analysis.figures.style import Figure, save_figure
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import write_text
from pcvpt.runs.disk_space import check_output

Row = Mapping[str, object]


class Output:
    """The files of one analysis, in one folder; what is there already stays unless said otherwise.

    Args:
        folder: where to.
        name: of the analysis: the stem of its files.
        overwrite: replace files of an earlier one.

    Raises:
        UsageError: when the folder can't be written, or has such files already.
    """

    def __init__(self, folder: Path, name: str, overwrite: bool = False) -> None:
        self.folder, self.name = folder, name
        table = folder / f"{name}.csv"
        if table.exists() and not overwrite:
            raise UsageError(
                f"{table} exists; --overwrite replaces it, --output names another folder"
            )
        check_output(folder, "--output")

    def table(self, rows: Sequence[Row], part: str = "") -> None:
        """Write ``rows``, whose keys are the columns, as ``NAME.csv`` or ``NAME_PART.csv``."""
        text = io.StringIO()
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._say(write_csv := self._path(part, ".csv"))
        write_text(write_csv, text.getvalue())

    def figure(self, figure: Figure, part: str = "") -> None:
        """Write ``figure`` as PNG and SVG."""
        for path in save_figure(figure, self._path(part, "")):
            self._say(path)

    def show(self, table: Table) -> None:
        """Print ``table`` on the terminal."""
        _console().print(table)

    def _path(self, part: str, suffix: str) -> Path:
        return self.folder / (self.name + f"_{part}" * bool(part) + suffix)

    @staticmethod
    def _say(path: Path) -> None:
        _console().print(f"Written: {path}", highlight=False, soft_wrap=True)


def as_table(rows: Sequence[Row], title: str = "") -> Table:
    """Lay out ``rows`` for the terminal: floats with two digits, numbers to the right."""
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        number = all(isinstance(row.get(column, 0), int | float) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if number else "left")
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(f"{c:,.2f}" if isinstance(c, float) else str(c) for c in cells))
    return table


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)
