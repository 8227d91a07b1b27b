"""Checks of options before an analysis begins."""

import argparse

from pcvpt.errors import UsageError


def require_at_least(least: int, options: argparse.Namespace, *names: str) -> None:
    """Raise a UsageError if an option of ``names``, a number or a list of them, is below ``least``.

    An option that is not given is not checked.
    """
    for name in names:
        value = getattr(options, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and number < least:
                raise UsageError(f"--{name} {number}; give at least {least}")
