"""The LightningDataModules: own images, the 24 tasks, and the demo."""
