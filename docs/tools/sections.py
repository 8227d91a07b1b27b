"""Parts of Markdown files: a section by its heading, and a section put where a page asks for it.

A page asks by a line ``<!-- include: README.md#The 24 tasks -->``; without a heading it gets what
stands before the first one.
"""

import re
from pathlib import Path

from markdown.extensions.toc import slugify

INCLUDE = re.compile(r"^<!-- include: (?P<file>[^#\s]+)#(?P<heading>.*?) -->$", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
# README's paragraphs begin with their subject, which is a heading where there is room for one.
_BOLD = re.compile(r"(?<=\n\n)\*\*([^*\n]+)\.\*\* (?=[^\n])")
_SLANTED = re.compile(r"(?<=\n\n)\*([A-Z][^*:\n]+)\*(?: (?=\()|\n+)")


class PageError(ValueError):
    """A page asks for what is not there; the message names both."""


def outside_fences(markdown: str) -> str:
    """Return ``markdown`` with its blocks of code blanked, each character in its old place."""
    return _FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), markdown)


def section(markdown: str, heading: str, source: str) -> tuple[str, int]:
    """Return what stands under ``heading``, without it, and the heading's level.

    Raises:
        PageError: when ``source``, the name of the file, has no such heading.
    """
    headings = list(_HEADING.finditer(outside_fences(markdown)))
    if not heading:
        inner = [found for found in headings if len(found[1]) > 1]
        start, level = (headings[0].end() if headings else 0), 1
        end = inner[0].start() if inner else len(markdown)
        return markdown[start:end].strip(), level
    for found in headings:
        if found[2].strip() == heading:
            level = len(found[1])
            later = (h.start() for h in headings if h.start() > found.start())
            same = {h.start() for h in headings if len(h[1]) <= level}
            end = next((start for start in later if start in same), len(markdown))
            return markdown[found.end() : end].strip(), level
    raise PageError(f"{source} has no heading {heading!r}; name one that it has")


def deepened(markdown: str, level: int, below: int) -> str:
    """Return a section of a heading of ``level`` as it is to stand under one of level ``below``.

    Paragraphs that begin with their subject, in bold or slanted, get it as a heading.
    """
    text = markdown
    for found in reversed(list(_HEADING.finditer(outside_fences(markdown)))):
        marks = "#" * (len(found[1]) + below - level)
        text = f"{text[: found.start()]}{marks}{text[found.end(1) :]}"
    inside = "#" * (below + 1)
    text = f"\n\n{text}\n"
    for subject in (_BOLD, _SLANTED):
        text = subject.sub(lambda found: f"{inside} {found[1]}\n\n", text)
    return text.strip()


def level_at(markdown: str, position: int) -> tuple[int, str]:
    """Return the level and the text of the heading above ``position``; 1 and "" above the first."""
    above = [h for h in _HEADING.finditer(outside_fences(markdown)) if h.start() < position]
    return (len(above[-1][1]), above[-1][2].strip()) if above else (1, "")


def anchor(heading: str) -> str:
    """Return the name by which links reach ``heading``."""
    return str(slugify(heading, "-"))


def included(markdown: str) -> list[tuple[str, str, str]]:
    """Return what a page includes: file, heading there, anchor of the place here ("" for top)."""
    found = []
    for ask in INCLUDE.finditer(markdown):
        level, heading = level_at(markdown, ask.start())
        found.append((ask["file"], ask["heading"], anchor(heading) if level > 1 else ""))
    return found


def read(path: Path) -> str:
    """Return the text of ``path``."""
    return path.read_text(encoding="utf-8")
