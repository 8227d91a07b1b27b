"""What a checkpoint holds of a PromptTuner, and whether it fits the model at hand."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Timer
from torch import Tensor
from typing_extensions import Self, override

from pcvpt.data import InputSpec
from pcvpt.data.samplers import begin_epoch
from pcvpt.data.splits import Classes
from pcvpt.errors import UsageError
from pcvpt.models.transformer import PromptedTransformer
from pcvpt.models.weights.fingerprint import fingerprint
from pcvpt.runs.folder import read_checkpoint
from pcvpt.training.callback_protocols import image_data
from pcvpt.training.loss_guard import LossGuard, require_finite_weights
from pcvpt.training.phases import Schedule

_PROMPTS = "model.prompts."  # begins the names of the prompts' tensors in a state dict


class Progress(NamedTuple):
    """Completed epochs of a checkpoint's run, and trained batches of the next epoch."""

    epochs: int
    batches: int


def _progress(checkpoint: Mapping[str, Any]) -> Progress:
    """Return how far the run was when Lightning's Trainer saved ``checkpoint``."""
    loop = checkpoint["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    batches = loop["epoch_loop.batch_progress"]["current"]
    within = epochs["started"] > epochs["processed"]
    return Progress(epochs["processed"], batches["processed"] if within else 0)


def saved_classes(checkpoint: Mapping[str, Any]) -> Classes | None:
    """Return the classes of the model in ``checkpoint``; None if it does not know them."""
    found = checkpoint["pcvpt"].get("classes")
    return None if found is None else Classes(*found)


def saved_state(module: pl.LightningModule) -> dict[str, Tensor]:
    """Return the state of ``module`` without the backbone: what is trained, masks, and phase."""
    names = {name for name, value in module.named_parameters() if value.requires_grad} | {"phase"}
    whole = module.state_dict().items()
    return {name: v for name, v in whole if name in names or name.startswith(_PROMPTS)}


class SavedTuner(pl.LightningModule):
    """The part of a PromptTuner that saves, loads and resumes; no checkpoint holds the backbone.

    Attributes:
        model: The prompted model.
        identity: What must be equal in the run of a checkpoint.
        made_by: Arguments that make a tuner like this one, without its recipes.
        classes: Classes of the data of a fit, or of a checkpoint. None where they are not known.
        resumed: How far the resumed run was; no epoch and no batch if none is resumed.
    """

    model: PromptedTransformer
    identity: dict[str, Any]
    made_by: dict[str, Any]
    schedule: Schedule
    run_seed: int

    def __init__(self) -> None:
        super().__init__()
        self.classes: Classes | None = None
        self.resumed = Progress(0, 0)
        self._losses = LossGuard()

    @cached_property
    def backbone_fingerprint(self) -> str:
        """Fingerprint of the backbone's weights before any precision has rounded them."""
        return fingerprint(self.model)

    @property
    def class_names(self) -> list[str]:
        """Name of each class by its label; its number where it is not known."""
        data = image_data(self.trainer) if self.classes is None else None
        classes = self.classes if data is None else data.classes
        names = () if classes is None else classes.names
        return [*names, *map(str, range(len(names), int(cast(Any, self.model).num_classes)))]

    @property
    def input_spec(self) -> InputSpec:
        """Size and normalisation of the images that the backbone expects."""
        return InputSpec.of(self.model.pretrained_cfg, self.model.patch_embed.img_size)

    @override
    def on_train_start(self) -> None:
        if self.resumed.batches:  # a part of this epoch is trained
            self._begin_epoch()

    # The order of the images is a function of (seed, epoch), dropout one of (seed, epoch, batch,
    # rank), so that a resumed run draws the same, and so does each of several fine-tunings.
    def _begin_epoch(self) -> None:
        begun = any(self.resumed) and self.resumed.epochs == self.current_epoch
        batches = self.resumed.batches if begun else None
        begin_epoch(self.trainer, self.schedule.single_budget_epoch(self.current_epoch), batches)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        epoch = self.schedule.single_budget_epoch(self.current_epoch)
        numbers = (1_000_003, epoch), (7_919, self.global_rank), (15_485_863, batch_idx)
        seed = (self.run_seed + sum(a * b for a, b in numbers)) % 2**63
        # torch.manual_seed would seed all devices, and form a traceback for a GPU that is not used.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def _share_classes(self) -> None:
        """Let the data take the labels of this model, unless no label is read."""
        data = image_data(self._trainer) if self._trainer else None
        if data is not None:
            data.use_classes(None if self.trainer.state.fn == "predict" else self.classes)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.training:
            self._losses.require(self.trainer)
            require_finite_weights(self, self.trainer)
        checkpoint["state_dict"] = saved_state(self)
        checkpoint["pcvpt"] = {
            **self.identity,
            "fingerprint": self.backbone_fingerprint,
            "made_by": self.made_by,
            "classes": self.classes and tuple(self.classes),
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_checkpoint(checkpoint)
        fits = self._trainer is not None and self._trainer.state.fn == "fit"
        if fits:
            self.resumed = _progress(checkpoint)
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
        ``pretrained``. To train, give ``prompt`` and ``finetune``: a checkpoint holds no recipe. A
        UsageError is raised for a file that is no checkpoint, and for other weights.
        """
        checkpoint = read_checkpoint(Path(checkpoint_path))
        recipes = {"prompt": None, "finetune": None}
        tuner = cls(**{**recipes, **checkpoint["pcvpt"]["made_by"], **options})
        tuner.on_load_checkpoint(checkpoint)
        tuner.load_state_dict(checkpoint["state_dict"], strict=False)
        return tuner.to(map_location or "cpu")

    def check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Raise a UsageError unless ``checkpoint`` is of a model like this one."""
        saved, state = checkpoint.get("pcvpt"), checkpoint["state_dict"]
        if saved is None:
            raise UsageError("not a checkpoint of pcvpt")
        for name, value in self.identity.items():
            if (found := saved.get(name)) != value:
                raise UsageError(
                    f"the checkpoint was trained with {name}={found!r}, the configuration has "
                    f"{name}={value!r}; use the config.yaml of the run"
                )
        if (found := saved.get("fingerprint")) != self.backbone_fingerprint:
            raise UsageError(
                f"the backbone of the checkpoint has the fingerprint {found}, this one "
                f"{self.backbone_fingerprint}, so its weights differ; give the same `pretrained`"
            )
        self.model.match_prompts(state, _PROMPTS)
        for name, tensor in saved_state(self).items():
            if name not in state:
                raise UsageError(f"the checkpoint lacks {name}; it is incomplete")
            if state[name].shape != tensor.shape:
                classes = f"; classes: {len(state[name])} and {len(tensor)}"
                raise UsageError(
                    f"{name} is {tuple(state[name].shape)} in the checkpoint and "
                    f"{tuple(tensor.shape)} in the model{classes * ('head' in name)}"
                )
