"""The LightningModule: loss, metrics, and the optimizer and schedule of the current phase."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from pcvpt.data import InputSpec
from pcvpt.data.samplers import IGNORED, begin_epoch
from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.models.fingerprint import fingerprint
from pcvpt.models.transformer import Execution, Mode
from pcvpt.training.checkpoint import Progress, check_identity, check_tensors, progress, saved_names
from pcvpt.training.metrics import MeanOverClasses, MeanOverImages
from pcvpt.training.nan_guard import FiniteLoss, require_finite_weights
from pcvpt.training.phases import Plan
from pcvpt.training.preflight import refuse_test_monitors, require_compiler, require_supported
from pcvpt.training.recipe import PhaseRecipe, hold_masked_prompts, parameter_groups

PHASES = ("prompt", "finetune")


class PromptTuner(pl.LightningModule):
    """Trains the prompts and the head of a frozen backbone by cross-entropy.

    Logged for train, val and test: ``loss``, ``accuracy``, and ``accuracy_per_class``, the mean
    over classes (a class without images in the split counts, as 0, once it is predicted). The
    phase ("prompt", then "finetune" once a callback asks for it) and the kept prompts are buffers,
    so that a resumed run builds the right optimizer.

    Args:
        num_classes: classes of the head; the command takes it from the data.
        prompt: recipe of prompt training.
        finetune: recipe of the fine-tuning of the kept prompts.
        backbone: a timm model name.
        num_prompts: prompts per layer.
        mode: "deep", "shallow", or "linear" (no prompts).
        execution: "prefix" or "tokens"; the same function, see :func:`pcvpt.create_model`.
        prompt_dropout: probability of zeroing an element of a prompt, for each image.
        pretrained: True for timm's weights, a path for a local file, False for random ones.
        image_size: side of the input images in pixels; the backbone's own when None.
        pool_prompts: Swin only: the head sees the prompts too, see :func:`pcvpt.create_model`.
        timm_kwargs: further arguments of ``timm.create_model``.
        compile: compile the model (``torch.compile``): a graph for training and one for
            evaluation, whatever the size of a batch (but one image alone is a graph of its own),
            and anew in the second phase, whose prompts are fewer.
        gradient_checkpointing: hold what enters each block, and compute the block once more in
            the backward pass.

    Raises:
        UsageError: for what :func:`pcvpt.create_model` refuses, and for ``compile`` without the
            compiler of C++ that it needs on the CPU.
    """

    phase: Tensor

    def __init__(
        self,
        num_classes: int,
        prompt: PhaseRecipe,
        finetune: PhaseRecipe,
        backbone: str = "vit_base_patch16_224.orig_in21k",
        num_prompts: int = 10,
        mode: Mode = "deep",
        execution: Execution = "prefix",
        prompt_dropout: float = 0.0,
        pretrained: bool | str = True,
        image_size: int | None = None,
        pool_prompts: bool = False,
        timm_kwargs: dict[str, Any] | None = None,
        compile: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if compile:
            require_compiler()
        self.identity = {
            "backbone": backbone,
            "mode": mode,
            "num_prompts": num_prompts,
            "pool_prompts": pool_prompts,
            "timm_kwargs": timm_kwargs or {},
        }
        size = {} if image_size is None else {"img_size": image_size}
        self.model = create_model(
            backbone,
            num_classes,
            num_prompts,
            mode=mode,
            execution=execution,
            prompt_dropout=prompt_dropout,
            pretrained=pretrained,
            pool_prompts=pool_prompts,
            **{**size, **(timm_kwargs or {})},
        )
        if gradient_checkpointing:
            cast(Any, self.model).set_grad_checkpointing()
        self._compiled = compile
        if compile:
            self.model.compile()
        self.recipes = (prompt, finetune)
        self.plan: Plan | None = None  # of the callback that changes the phase
        self._resumed: Progress | None = None
        self._finite = FiniteLoss()
        self.register_buffer("phase", torch.tensor(0))
        self.strict_loading = False  # checkpoints hold what is trained; checked when loading
        self.metrics = torch.nn.ModuleDict(
            {
                f"{stage}_metrics": torch.nn.ModuleDict(
                    {
                        "loss": MeanOverImages(),
                        "accuracy": MeanOverImages(),
                        "accuracy_per_class": MeanOverClasses(num_classes),
                    }
                )
                for stage in ("train", "val", "test")
            }
        )

    @property
    def phase_name(self) -> str:
        """The current phase, "prompt" or "finetune"."""
        return PHASES[int(self.phase)]

    @cached_property
    def backbone_fingerprint(self) -> str:
        """What tells the backbone's weights from others, as they were at first."""
        return fingerprint(self.model)

    @property
    def input_spec(self) -> InputSpec:
        """Size and normalisation of the images that the backbone expects."""
        return InputSpec.of(self.model.pretrained_cfg, self.model.patch_embed.img_size)

    @override
    def forward(self, images: Tensor) -> Tensor:
        if self._compiled:
            # Else a last, smaller batch would compile a second graph.
            torch._dynamo.maybe_mark_dynamic(images, 0)
        logits: Tensor = self.model(images)
        return logits

    @override
    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        loss = self._step(batch, "train")
        self._finite.note(loss, self.current_epoch, batch_idx)
        return loss

    @override
    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    @override
    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    @override
    def predict_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        logits: Tensor = self(batch[0])
        return logits.float().softmax(dim=1)

    def _step(self, batch: Sequence[Tensor], stage: str) -> Tensor:
        images, labels = batch[0], batch[1]
        logits = self(images).float()
        # Nothing is read here: on a GPU the step would wait for it. In evaluation on several
        # devices, padding may fill a part of a batch, or the whole of it.
        counted = (labels != IGNORED).sum()
        total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        guesses = logits.detach().argmax(1)
        metrics: Any = self.metrics[f"{stage}_metrics"]
        metrics["loss"].update(total.detach(), counted)
        metrics["accuracy"].update((guesses == labels).sum(), counted)
        metrics["accuracy_per_class"].update(guesses, labels)
        for name, metric in metrics.items():
            self.log(
                f"{stage}/{name}",
                metric,
                on_step=False,
                on_epoch=True,
                prog_bar=stage == "val" and name != "loss",
            )
        return total / counted.clamp(min=1)

    def start_finetuning(self) -> None:
        """Begin a fine-tuning; the caller then asks for :meth:`configure_optimizers` anew."""
        self.phase.fill_(1)
        if self._compiled:  # what was compiled for another mask is of no use, but counts as one
            torch.compiler.reset()

    @override
    def configure_optimizers(self) -> Any:
        """Return a fresh optimizer and schedule for the current phase."""
        recipe = self.recipes[int(self.phase)]
        plan = self.plan or Plan(self.trainer.max_epochs or 1)
        epochs = plan.phase_epochs[int(self.phase)]
        steps_per_epoch = self.trainer.estimated_stepping_batches / max(
            1, self.trainer.max_epochs or 1
        )
        groups = parameter_groups(self.model, recipe.weight_decay)
        for group in groups:
            group["lr"] = recipe.learning_rate(self.global_batch)
        optimizer = recipe.optimizer(groups)
        hold_masked_prompts(optimizer, self.model.prompts)
        steps = round(epochs * steps_per_epoch)
        schedule = LambdaLR(optimizer, lambda step: recipe.factor(step, steps, steps_per_epoch))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    def global_batch(self) -> int:
        """Number of images of one optimizer step over all devices."""
        loader = self.trainer.train_dataloader
        per_device = getattr(loader, "batch_size", None) or 1
        return int(per_device * self.trainer.world_size * self.trainer.accumulate_grad_batches)

    @override
    def configure_callbacks(self) -> list[pl.Callback]:
        # Adds none; but of all hooks this is the first, before the data are looked at.
        require_supported(self.trainer.strategy)
        if self.trainer.state.fn == "fit":
            callbacks: list[Any] = cast(Any, self.trainer).callbacks
            refuse_test_monitors(callbacks)
            for check in (getattr(callback, "check_run", None) for callback in callbacks):
                if check is not None:
                    check(self.trainer, self)
        return []

    @override
    def setup(self, stage: str) -> None:
        # Before a precision such as "bf16-true" rounds the weights.
        _ = self.backbone_fingerprint
        self._resumed, self._finite = None, FiniteLoss()

    @override
    def on_fit_start(self) -> None:
        self._run_seed = torch.initial_seed()

    @override
    def teardown(self, stage: str) -> None:
        if stage == "fit":  # each batch has set another
            torch.manual_seed(self._run_seed)

    @override
    def on_train_start(self) -> None:
        if self._resumed is not None and self._resumed.batches:  # amid an epoch that has begun
            self._begin_epoch()

    @override
    def on_train_epoch_start(self) -> None:
        self._begin_epoch()
        self.log("phase", float(self.phase), on_epoch=True, sync_dist=True)

    # The order of the images is a function of (seed, epoch), dropout one of (seed, epoch, batch,
    # rank): so that a resumed run draws the same, and so does each of several fine-tunings.
    def _begin_epoch(self) -> None:
        resumed = (
            self._resumed if self._resumed and self._resumed.epochs == self.current_epoch else None
        )
        begin_epoch(self.trainer, self._epoch_alone, resumed and resumed.batches)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        numbers = (1_000_003, self._epoch_alone), (7_919, self.global_rank), (15_485_863, batch_idx)
        torch.manual_seed((self._run_seed + sum(a * b for a, b in numbers)) % 2**63)

    @property
    def _epoch_alone(self) -> int:
        return self.plan.alone(self.current_epoch) if self.plan else self.current_epoch

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # To look is free on a CPU alone. Elsewhere it is to wait for the device, or for others.
        every = 1 if self.device.type == "cpu" and self.trainer.world_size == 1 else None
        if (batch_idx + 1) % (every or cast(Any, self.trainer).log_every_n_steps or 50) == 0:
            self._require_finite()

    @override
    def on_train_epoch_end(self) -> None:
        self._require_finite()

    def _require_finite(self) -> None:
        groups = self.trainer.optimizers[0].param_groups
        self._finite.require(self.trainer, [group["lr"] for group in groups])

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # `self.log` would copy the rate to the device and back, in each step.
        step, every = self.trainer.global_step, cast(Any, self.trainer).log_every_n_steps
        if every and (step + 1) % every == 0:
            for logger in self.trainer.loggers:
                rate = optimizer.param_groups[0]["lr"]
                logger.log_metrics({"learning_rate": rate}, step=step)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.trainer.training:
            self._require_finite()
            require_finite_weights(self, self.trainer)
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in saved_names(self)}
        checkpoint["pcvpt"] = {**self.identity, "fingerprint": self.backbone_fingerprint}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_identity(checkpoint, self.identity, self.backbone_fingerprint)
        own = self.state_dict()
        check_tensors(checkpoint["state_dict"], {name: own[name] for name in saved_names(self)})
        if self.trainer.state.fn == "fit":
            self._resumed = progress(checkpoint)


def require_tuner(module: pl.LightningModule) -> PromptTuner:
    """Return ``module`` as the PromptTuner it is; raise a UsageError when it is something else."""
    if not isinstance(module, PromptTuner):
        raise UsageError(f"{type(module).__name__} is not a pcvpt.PromptTuner")
    return module
