"""``pcvpt sweep`` and ``pcvpt table``: from one run to a table."""
