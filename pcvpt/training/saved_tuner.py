"""What a checkpoint holds of a PromptTuner, and how it is loaded."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer
from typing_extensions import Self, override

from pcvpt.data.splits import Classes
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.weights.fingerprint import fingerprint
from pcvpt.runs.folder import read_checkpoint
from pcvpt.training.callback_protocols import image_data
from pcvpt.training.checkpoint import (
    PROMPTS,
    Progress,
    check_identity,
    check_tensors,
    progress,
    saved_classes,
    saved_state,
)
from pcvpt.training.nan_guard import FiniteLoss, require_finite_weights


class SavedTuner(pl.LightningModule):
    """The part of a PromptTuner that saves and loads; checkpoints do not hold the backbone.

    Attributes:
        model: The prompted model.
        identity: What must be equal in the run of a checkpoint.
        made_by: Arguments that make a tuner like this one, without its recipes.
        classes: Classes of the data of a fit, or of a checkpoint. None where they are not known.
    """

    model: PromptedTransformer
    identity: dict[str, Any]
    made_by: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.classes: Classes | None = None
        self._resumed: Progress | None = None
        self._finite = FiniteLoss()

    @cached_property
    def backbone_fingerprint(self) -> str:
        """Fingerprint of the backbone's weights before any precision has rounded them."""
        return fingerprint(self.model)

    def _share_classes(self) -> None:
        """Let the data take the labels of this model, unless no label is read."""
        data = image_data(self._trainer) if self._trainer else None
        if data is not None:
            data.use_classes(None if self.trainer.state.fn == "predict" else self.classes)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.training:
            self._finite.require(self.trainer)
            require_finite_weights(self, self.trainer)
        checkpoint["state_dict"] = saved_state(self)
        checkpoint["pcvpt"] = {**self.identity, "fingerprint": self.backbone_fingerprint}
        checkpoint["pcvpt"]["made_by"] = self.made_by
        if self.classes is not None:
            checkpoint["pcvpt"]["classes"] = tuple(self.classes)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_checkpoint(checkpoint)
        fits = self._trainer is not None and self._trainer.state.fn == "fit"
        if fits:
            self._resumed = progress(checkpoint)
            for callback in cast(Any, self.trainer).callbacks:
                if isinstance(callback, Timer):  # its time begins anew with each start
                    checkpoint["callbacks"].pop(callback.state_key, None)
        self.classes = saved_classes(checkpoint) or (self.classes if fits else None)
        self._share_classes()

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **options: Any,
    ) -> Self:
        """Return the tuner of a checkpoint of a run, with the weights of its backbone.

        ``options`` are arguments of the class that differ from those of the run, such as
        ``pretrained``. To train, give ``prompt`` and ``finetune``: a checkpoint holds no recipe.
        ``hparams_file``, ``strict`` and ``weights_only`` are Lightning's, and do nothing. A
        UsageError is raised for a file that is no checkpoint, and for other weights.
        """
        checkpoint = read_checkpoint(Path(checkpoint_path))
        made_by = checkpoint["pcvpt"].get("made_by", {})  # older ones have none
        tuner = cls(**{"prompt": None, "finetune": None, **made_by, **options})
        tuner.on_load_checkpoint(checkpoint)
        tuner.load_state_dict(checkpoint["state_dict"], strict=False)
        return tuner.to(map_location or "cpu")

    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Raise a UsageError unless ``checkpoint`` is of a model like this one."""
        check_identity(checkpoint, self.identity, self.backbone_fingerprint)
        state = checkpoint["state_dict"].items()
        self.model.match_prompts(
            {name.removeprefix(PROMPTS): value for name, value in state if name.startswith(PROMPTS)}
        )
        check_tensors(checkpoint["state_dict"], saved_state(self))
