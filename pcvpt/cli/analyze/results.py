"""Results of an analysis: CSV files and figures."""

from collections.abc import Sequence
from pathlib import Path

from pcvpt.analysis.figures.style import Figure, save_figure
from pcvpt.analysis.tables import Row, console
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import check_output, write_csv


class Results:
    """The files of one analysis, in one folder. Their names begin with that of the analysis.

    A UsageError is raised if the folder can't be written to, or has such files and ``overwrite`` is
    False.
    """

    def __init__(self, folder: Path, name: str, overwrite: bool = False) -> None:
        self.folder, self.name = folder, name
        table = folder / f"{name}.csv"
        if table.exists() and not overwrite:
            raise UsageError(f"{table} exists; --overwrite replaces it, --output names another")
        check_output(folder, "--output")

    def write_table(self, rows: Sequence[Row], part: str = "") -> None:
        """Write ``rows`` as ``NAME.csv``, or as ``NAME_PART.csv``."""
        path = self._path(part, ".csv")
        write_csv(path, rows)
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


def _report(path: Path) -> None:
    console().print(f"Written: {path}", highlight=False, soft_wrap=True)
