"""Links between files of the repository, turned into links between pages of the site."""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

_CODE_OR_LINK = re.compile(r"^```.*?^```$|(?<=\])\(([^()\s#:]+)(#[^()\s]*)?\)", re.M | re.S)
_READABLE = {".gif", ".html", ".jpg", ".json", ".pdf", ".png", ".svg", ".txt"}


class Links:
    """Turns the links of Markdown files.

    Args:
        root: Folder of the repository.
        pages: Page of the site by the file that it is made of.

    Attributes:
        files: Files that pages link to and that are no pages, by their places in the site.
    """

    def __init__(self, root: Path, pages: Mapping[Path, str]) -> None:
        self.root, self.pages = root, pages
        self.files: dict[str, Path] = {}

    def turned(self, text: str, source: Path, suffix: str = "") -> str:
        """Return the Markdown ``text`` of the file ``source`` with links as the site needs them.

        Args:
            text: Markdown.
            source: File that the links are relative to.
            suffix: Ending of the links to pages. Default: that of the pages' files.

        Raises:
            ValueError: for a link that leads nowhere.
        """

        def turn(found: re.Match[str]) -> str:
            if not found[1]:  # a block of code
                return found[0]
            place = self._place(found[1], source)
            if suffix and place in self.pages.values():
                place = place.rpartition(".")[0] + suffix
            here = posixpath.dirname(self.pages[source]) or "."
            return f"({posixpath.relpath(place, here)}{found[2] or ''})"

        return _CODE_OR_LINK.sub(turn, text)

    def _place(self, target: str, source: Path) -> str:
        file = (source.parent / target).resolve()
        file = file / "README.md" if file.is_dir() else file
        if file in self.pages:
            return self.pages[file]
        if not (file.is_file() and file.is_relative_to(self.root)):
            raise ValueError(f"{source.relative_to(self.root)}: the link {target} leads nowhere")
        place = f"repository/{file.relative_to(self.root).as_posix()}"
        place += "" if file.suffix in _READABLE else ".txt"  # so that browsers show the file
        self.files[place] = file
        return place
