"""``python -m pcvpt`` is the ``pcvpt`` command."""

from pcvpt.cli.main import main

main()
