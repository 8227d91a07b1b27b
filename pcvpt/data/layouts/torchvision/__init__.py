"""Readers of VTAB's sets as their authors publish them, with the keys that TFDS gives the images.

Each returns a ``Raw``, whose splits are ordered and cut as TFDS would. Keys, splits and labels are
those of the builders in tensorflow_datasets 4.9, ``datasets/`` and ``image_classification/``.
"""
