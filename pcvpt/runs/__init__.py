"""Run folders and their locks, atomic writes, environment and signals."""
