"""``pcvpt analyze``: tables, CSV files and figures of a finished run."""
