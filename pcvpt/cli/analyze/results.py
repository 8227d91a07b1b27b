"""Results of an analysis: a table on the terminal, CSV files, and figures."""

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
"""A row of a table, by the names of its columns."""


class Results:
    """The files of one analysis, in one folder.

    Args:
        folder: Folder to write to.
        name: Name of the analysis, with which the names of its files begin.
        overwrite: Whether to replace the files of an earlier analysis. Default: False.

    Raises:
        UsageError: If the folder can't be written to, or has such files and ``overwrite`` is False.
    """

    def __init__(self, folder: Path, name: str, overwrite: bool = False) -> None:
        self.folder, self.name = folder, name
        table = folder / f"{name}.csv"
        if table.exists() and not overwrite:
            raise UsageError(
                f"{table} exists; --overwrite replaces it, --output names another folder"
            )
        check_output(folder, "--output")

    def write_table(self, rows: Sequence[Row], part: str = "") -> None:
        """Write ``rows`` as ``NAME.csv``, or as ``NAME_PART.csv``."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path = self._path(part, ".csv")
        write_text(path, text.getvalue())
        _report(path)

    def write_figure(self, figure: Figure, part: str = "") -> None:
        """Write ``figure`` as PNG and SVG."""
        for path in save_figure(figure, self._path(part, "")):
            _report(path)

    def _path(self, part: str, suffix: str) -> Path:
        return self.folder / (self.name + f"_{part}" * bool(part) + suffix)


def rows_of(**columns: object) -> list[Row]:
    """Return the rows of a table, given its columns: lists, or a value that is in each row."""
    (length,) = {len(column) for column in columns.values() if isinstance(column, list)}
    lists = [c if isinstance(c, list) else [c] * length for c in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def print_table(rows: Sequence[Row], title: str) -> None:
    """Print ``rows`` on the terminal: floats with two digits, numbers aligned to the right."""
    table = Table(title=title, title_justify="left")
    columns = _columns(rows)
    for column in columns:
        number = all(isinstance(row.get(column, 0), int | float) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if number else "left")
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(f"{c:,.2f}" if isinstance(c, float) else str(c) for c in cells))
    _console().print(table)


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _report(path: Path) -> None:
    _console().print(f"Written: {path}", highlight=False, soft_wrap=True)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)
