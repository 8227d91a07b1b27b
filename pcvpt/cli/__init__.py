"""The ``pcvpt`` command, and all that only the command uses."""
