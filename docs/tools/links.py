"""Links of files of the repository, which are right there, as the site needs them.

A link to a file that is a page leads to the page; any other file is copied into the site.
"""

import posixpath
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from sections import PageError, outside_fences

_LINK = re.compile(r"(?<=\])\((?P<target>[^()\s]+)(?P<title>\s+\"[^\"]*\")?\)")
_ELSEWHERE = re.compile(r"^[a-z][a-z+.-]*:")
_SHOWN = {".gif", ".html", ".jpg", ".json", ".pdf", ".png", ".svg", ".txt"}  # others get .txt
COPIED = "repository"


class Links:
    """Turns links around.

    Args:
        root: of the repository.
        pages: page of the site by the file that it is made of.
        places: page and anchor by file and anchor there, of sections that pages include.
        made: places in the site of what is in no file, such as images that notebooks drew.

    Attributes:
        files: what the pages linked to so far, and the site must hold: file by its place there.
    """

    def __init__(
        self,
        root: Path,
        pages: Mapping[Path, str],
        places: Mapping[tuple[Path, str], tuple[str, str]],
        made: Collection[str] = (),
    ) -> None:
        self.root, self.pages, self.places, self.made = root.resolve(), pages, places, made
        self.files: dict[str, Path] = {}

    def turned(self, markdown: str, source: Path, page: str) -> str:
        """Return ``markdown``, which stands in the file ``source``, for ``page``.

        Raises:
            PageError: for a link to nothing.
        """
        pieces, end = [], 0
        for link in _LINK.finditer(outside_fences(markdown)):
            target = self._target(link["target"], source, page)
            pieces += [markdown[end : link.start()], f"({target}{link['title'] or ''})"]
            end = link.end()
        return "".join(pieces) + markdown[end:]

    def _target(self, target: str, source: Path, page: str) -> str:
        if _ELSEWHERE.match(target):
            return target
        path, _, anchor = target.partition("#")
        file = (source.parent / path).resolve() if path else source
        if (file, anchor) in self.places:  # a section that stands on a page of its own
            where, anchor = self.places[file, anchor]
        elif not path:
            return target
        elif file in self.pages:
            where = self.pages[file]
        elif file.is_dir() and file / "README.md" in self.pages:
            where = self.pages[file / "README.md"]
        elif file.is_file() and file.is_relative_to(self.root):
            where = self._copied(file)
        elif self._beside(path, page) in self.made:
            where = self._beside(path, page)
        else:
            raise PageError(f"{source.relative_to(self.root)}: the link {target} leads to nothing")
        relative = posixpath.relpath(where, posixpath.dirname(page) or ".")
        return f"{relative}#{anchor}" if anchor else relative

    @staticmethod
    def _beside(path: str, page: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(page), path))

    def _copied(self, file: Path) -> str:
        place = f"{COPIED}/{file.relative_to(self.root).as_posix()}"
        place += "" if file.suffix in _SHOWN else ".txt"  # so that browsers show it
        self.files[place] = file
        return place
