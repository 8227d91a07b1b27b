"""The LightningDataModules: the base class, the demo, the user's own images and the 24 tasks.

Importing one imports all, so that a config may name each by its class alone.
"""

from pcvpt.data.datamodules import benchmark, demo, image, own_images, tasks

__all__ = ["benchmark", "demo", "image", "own_images", "tasks"]
