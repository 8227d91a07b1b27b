"""Pictures, for the loggers that can show them."""

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

SHOW_PICTURES = TensorBoardLogger | WandbLogger | MLFlowLogger


def add_picture(logger: Logger, tag: str, pixels: np.ndarray, step: int) -> None:
    """Add the picture ``pixels`` ``(h, w, 3)``, uint8, to ``logger``, if it can show one."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, pixels, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(tag, [pixels], step)
    elif isinstance(logger, MLFlowLogger):
        client, run = logger.experiment, logger.run_id
        client.log_image(run, pixels, key=tag, step=step, synchronous=True)
