"""The LightningModule: loss, metrics, recipes of both phases, and the checks before a run."""
