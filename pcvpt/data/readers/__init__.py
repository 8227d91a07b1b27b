"""Readers of the user's own images: class folders, list files and JSON files."""
