"""``pcvpt analyze``: from a finished run to a table, a CSV and a figure; one module for each."""
