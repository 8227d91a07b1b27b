"""Draw a terminal session: what the commands of the README print, as ``docs/images/session.svg``.

    python docs/tools/session.py     # trains and tests the demo in a new folder; takes minutes

Of the lines of the epochs, the first and the last of each phase are shown.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

FILE = Path(__file__).resolve().parents[1] / "images" / "session.svg"
COMMANDS = ("pcvpt fit --config demo.yaml", "pcvpt test runs/demo")
WIDTH = 100  # characters
_EPOCH = re.compile(r"(?:prompt|finetune)\b.* \d+/\d+: ")
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # from the network


def printed(command: str, folder: Path) -> list[str]:
    """Run ``command`` in ``folder`` and return the lines that it prints, as into a file."""
    program = [sys.executable, "-m", *command.split()]
    environment = {**os.environ, "COLUMNS": str(WIDTH)}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    run = subprocess.run(program, cwd=folder, env=environment, text=True, check=True, **both)
    return run.stdout.splitlines()


def shortened(lines: Iterable[str]) -> Iterator[str]:
    """Yield ``lines`` with dots for the epochs within a phase."""
    for epoch, group in itertools.groupby(lines, lambda line: _EPOCH.match(line) is not None):
        found = list(group)
        yield from [found[0], "...", found[-1]] if epoch and len(found) > 3 else found


def main() -> None:
    """Run the commands and draw what they print."""
    console = Console(record=True, width=WIDTH + 8, file=StringIO())
    with tempfile.TemporaryDirectory() as folder:
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold green"))
            for line in shortened(printed(command, Path(folder))):
                console.print(Text(line))
    FILE.write_text(_FONTS.sub("", console.export_svg(title="pcvpt")))


if __name__ == "__main__":
    main()
