"""Tables on the terminal."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

Row = Mapping[str, object]
"""A row of a table, by the names of its columns."""


def print_table(rows: Sequence[Row], title: str | None = None, caption: str | None = None) -> None:
    """Print :func:`table_of` ``rows``."""
    console().print(table_of(rows, title, caption))


def table_of(rows: Sequence[Row], title: str | None = None, caption: str | None = None) -> Table:
    """Return ``rows``: floats with two digits; columns without words are aligned to the right."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    formats = {float: ",.2f", int: ","}
    texts = [[format(cell, formats.get(type(cell), "")) for cell in row] for row in cells]
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column, *of_column in zip(columns, *texts, strict=True):
        words = any(text[:1].isalpha() for text in of_column)
        name = column.replace("_", " ")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    for text in texts:
        table.add_row(*text)
    return table


def console() -> Console:
    """Return the console of stdout; a file has the width of a large terminal."""
    return Console(width=None if sys.stdout.isatty() else 140)
