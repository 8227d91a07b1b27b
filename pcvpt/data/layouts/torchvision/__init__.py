"""Readers of VTAB's data sets as their authors publish them, with the keys that TFDS uses.

Each returns ``SourceData``, whose splits are ordered and cut as TFDS would. Keys, splits and labels
are those of the builders in tensorflow_datasets 4.9, ``datasets/`` and ``image_classification/``.
"""
