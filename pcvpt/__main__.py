"""``python -m pcvpt`` is the ``pcvpt`` command."""

from pcvpt.cli import main

main()
