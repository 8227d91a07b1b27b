"""Weights of backbones: read from files, converted to timm's names, loaded, and named."""
