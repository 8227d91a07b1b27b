"""Notebooks as pages: executed ones where there are any, otherwise as they are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nbconvert import MarkdownExporter

PLAIN, EXECUTED = "notebooks", "build/notebooks"
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Notebook(NamedTuple):
    """A notebook as a page.

    Attributes:
        source: its file in the repository.
        page: of the site.
        title: its first heading.
        executed: whether there is output in it.
        markdown: the page's text.
        images: of the output, by their places in the site.
    """

    source: Path
    page: str
    title: str
    executed: bool
    markdown: str
    images: dict[str, bytes]


def notebooks(root: Path) -> Iterator[Notebook]:
    """Give the notebooks of the repository, each executed if it was since it last changed."""
    for plain in sorted((root / PLAIN).glob("*.ipynb")):
        run = root / EXECUTED / plain.name
        executed = run.is_file() and _code(run) == _code(plain)
        yield _converted(run if executed else plain, plain, executed)


def listing(found: list[Notebook]) -> str:
    """Return a list of links to the notebooks."""
    if not found:
        return "There are none yet."
    lines = []
    for notebook in found:
        note = "" if notebook.executed else " (without output: it was not run for these pages)"
        lines.append(f"- [{notebook.title}]({PLAIN}/{notebook.source.name}){note}")
    return "\n".join(lines)


def _converted(file: Path, plain: Path, executed: bool) -> Notebook:
    stem = plain.stem
    text, resources = MarkdownExporter().from_filename(
        str(file), resources={"output_files_dir": stem}
    )
    text = _COLOURS.sub("", text).strip()
    heading = re.match(r"# (.+)", text)
    title = heading[1] if heading else stem.replace("_", " ")
    if not heading:
        text = f"# {title}\n\n{text}"
    images = {f"notebooks/{name}": data for name, data in resources.get("outputs", {}).items()}
    return Notebook(plain, f"notebooks/{stem}.md", title, executed, text, images)


def _code(file: Path) -> list[str]:
    cells: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells]
