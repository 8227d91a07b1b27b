"""Readers of what TensorFlow Datasets writes, without TensorFlow."""
