"""Figures of all analyses. Only this package imports matplotlib."""
