"""What commands say of themselves with ``--help``."""

import contextlib
import io
import os
from unittest import mock

from pcvpt.cli.main import main

HELPS = (
    "analyze",
    *(f"analyze {name}" for name in ("spectrum", "layers", "curve", "scores", "cost", "attention")),
    "cost",
    *(f"data {name}" for name in ("list", "get", "verify", "convert", "show")),
)
_WIDTH = {"COLUMNS": "92", "NO_COLOR": "1"}


def shown(*words: str) -> str:
    """Return what ``pcvpt WORDS --help`` prints, as a block of Markdown that opens on a click.

    Raises:
        RuntimeError: when there is no such command.
    """
    said = io.StringIO()
    with mock.patch.dict(os.environ, _WIDTH), contextlib.redirect_stdout(said):
        try:
            main([*words, "--help"])
        except SystemExit as end:
            if end.code:
                raise RuntimeError(
                    f"`pcvpt {' '.join(words)} --help` ends with {end.code}"
                ) from end
    lines = said.getvalue().rstrip().split("\n")
    block = "\n".join(f"    {line}".rstrip() for line in ["```text", *lines, "```"])
    return f'??? info "pcvpt {" ".join(words)} --help"\n\n{block}'
