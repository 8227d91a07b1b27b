"""The site's pages and files: docs/pages, Markdown of the repository, and what is generated.

A page asks for a section of another file (see ``sections.py``), or for what is generated, by a line
``<!-- generated: NAME -->``. All links are those of the repository, and so work there, too.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keys
import reference
from command_help import HELPS, shown
from links import Links
from notebook_pages import listing, notebooks
from sections import INCLUDE, PageError, anchor, deepened, included, level_at, read, section

ROOT = Path(__file__).resolve().parents[2]
PAGES = "docs/pages"
WHOLE = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LOG.md": "log.md",
    "docs/cost.md": "cost.md",
    "docs/devices.md": "devices.md",
    "experiments/README.md": "experiments.md",
    "seeds/README.md": "seeds.md",
}
GENERATED = re.compile(r"^<!-- generated: (?P<name>[\w .]+) -->$", re.MULTILINE)
Generators = Mapping[str, Callable[[], str]]


class Site(NamedTuple):
    """What the site is built of.

    Attributes:
        pages: Markdown by place, links resolved.
        files: what is copied, by place: a file, or its contents.
    """

    pages: dict[str, str]
    files: dict[str, Path | bytes]


def assemble(root: Path = ROOT) -> Site:
    """Return the site of the repository in ``root``.

    Raises:
        PageError: for a link to nothing, and for a page that asks for what is not there.
    """
    own = own_pages(root)
    whole = {root / name: page for name, page in WHOLE.items()}
    found = list(notebooks(root))
    images = {place: data for notebook in found for place, data in notebook.images.items()}
    sources = {root / "README.md": "index.md", **own, **whole}
    sources |= {notebook.source: notebook.page for notebook in found}
    links = Links(root, sources, places(root, own), images)
    generators: Generators = {
        "keys": keys.tables,
        "shipped configs": keys.shipped,
        "notebooks": partial(listing, found),
        "callbacks": partial(keys.callbacks_with, "PhaseCheckpoint", every_n_steps=500),
        **{f"help of {words}": partial(shown, *words.split()) for words in HELPS},
        **{f"names of {m}": partial(reference.entries, m) for m in reference.PAGES.values()},
    }
    pages = {page: _filled(path, page, links, generators) for path, page in own.items()}
    pages |= {page: links.turned(read(path), path, page) for path, page in whole.items()}
    for notebook in found:
        pages[notebook.page] = links.turned(notebook.markdown, notebook.source, notebook.page)
    return Site(pages, {**links.files, **images})


def own_pages(root: Path) -> dict[Path, str]:
    """Return the pages of docs/pages, and their places in the site."""
    folder = root / PAGES
    return {path: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.md"))}


def places(root: Path, own: Mapping[Path, str]) -> dict[tuple[Path, str], tuple[str, str]]:
    """Return page and anchor of each section that a page includes, by file and anchor there."""
    return {
        (root / file, anchor(heading)): (page, here)
        for path, page in own.items()
        for file, heading, here in included(read(path))
        if heading
    }


def _filled(path: Path, page: str, links: Links, generators: Generators) -> str:
    """Return the text of a page, with what it asks for in its place."""
    text = links.turned(read(path), path, page)

    def include(ask: re.Match[str]) -> str:
        file = links.root / ask["file"]
        if not file.is_file():
            raise PageError(f"{page} includes {ask['file']}, which is no file")
        part, level = section(read(file), ask["heading"], ask["file"])
        above, _ = level_at(text, ask.start())
        return deepened(links.turned(part, file, page), level, above)

    def generate(ask: re.Match[str]) -> str:
        if ask["name"] not in generators:
            raise PageError(f"{page} asks for {ask['name']!r}; there are {', '.join(generators)}")
        return links.turned(generators[ask["name"]](), links.root / "README.md", page)

    return GENERATED.sub(generate, INCLUDE.sub(include, text))
