"""Run folders: which run is meant, its lock, atomic writes, environment and signals."""
