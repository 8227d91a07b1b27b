"""The LightningModule: loss, metrics, and the phase."""

from collections.abc import Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.models.factory import HeadInit, timm_arguments
from pcvpt.models.frozen_weights import FrozenWeights
from pcvpt.models.transformer import Execution, Mode
from pcvpt.training.callback_protocols import ChecksRun, RunWriter, image_data
from pcvpt.training.checkpoint import Progress, SavedTuner
from pcvpt.training.compiled_model import CompiledModel, CompileMode
from pcvpt.training.loss_guard import LossGuard, is_read
from pcvpt.training.metrics import LastAnswers, add_batch, answers, split_metrics
from pcvpt.training.phases import Schedule
from pcvpt.training.preflight import check_fit, require_compiler, require_supported
from pcvpt.training.process_group import leave_group_at_exit
from pcvpt.training.recipe import PhaseRecipe, images_per_batch, steps_per_epoch
from pcvpt.training.report import Report
from pcvpt.training.start import PromptInit, check_prompt_init, start_from_tokens

# Arguments of PromptTuner that a checkpoint does not hold; a recipe has no plain values.
_NOT_SAVED = ("self", "__class__", "prompt", "finetune", "compile", "gradient_checkpointing")


class PromptTuner(SavedTuner):
    """Trains the prompts and the head of a frozen backbone by cross-entropy.

    Logged for train, val and test are ``loss``, ``accuracy``, and ``accuracy_per_class``, the mean
    over classes (a class without images in the split counts, as 0, once it is predicted). The
    phase ("prompt", then "finetune" once a callback starts it) and the kept prompts are buffers,
    so that a resumed run builds the right optimizer.

    Args:
        num_classes: Number of classes of the head. The command takes it from the data.
        prompt: Recipe of prompt training.
        finetune: Recipe of the fine-tuning of the kept prompts.
        backbone: Name of a model of timm.
        num_prompts: Number of prompts per layer.
        mode: "deep", "prefix", "shallow", or "linear" (no prompts), see :func:`pcvpt.create_model`.
        execution: "prefix" or "tokens". Both compute the same, see :func:`pcvpt.create_model`.
        prompt_dropout: Probability of setting an element of a prompt to zero, for each image.
        pretrained: True for timm's weights, a path for a local file, False for random weights.
        image_size: Side of the input images in pixels. Default: that of the backbone.
        pool_prompts: Let the head of a Swin see the prompts too, see :func:`pcvpt.create_model`.
        head_init: Head at the start: "zero", or "vpt", as in the release of VPT; see
            :func:`pcvpt.create_model`.
        prompt_init: Prompts at the start: "uniform", as in VPT, or "tokens", tokens of training
            images that enter the same block. The first fit chooses them, unless it is resumed.
        timm_kwargs: Further arguments of ``timm.create_model``.
        compile: Compile the model by ``torch.compile``; a string names its mode. It makes one graph
            for training and one for evaluation, which serve every batch size but 1, and both again
            for the second phase, which has fewer prompts. How long each takes is logged.
        gradient_checkpointing: Keep only the inputs of each block in memory, and compute the block
            a second time in the backward pass.

    Attributes:
        report: Figures that this run has measured.
        schedule: Epochs of the two phases. Without a callback that sets it, all epochs of the
            trainer are prompt training.
        last_answers: Answers to the validation images, for what asks for them again.
        run_seed: Seed of the run; each step sets another one, which depends on it.

    Raises:
        UsageError: For what :func:`pcvpt.create_model` refuses. A fit, for ``compile`` without the
            compiler that it needs.
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
        head_init: HeadInit = "zero",
        prompt_init: PromptInit = "uniform",
        timm_kwargs: dict[str, Any] | None = None,
        compile: bool | CompileMode = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.made_by = {name: v for name, v in locals().items() if name not in _NOT_SAVED}
        if not isinstance(pretrained, bool):
            self.made_by["pretrained"] = str(pretrained)
        check_prompt_init(prompt_init, mode)
        self.identity = {"backbone": backbone, "mode": mode, "num_prompts": num_prompts}
        self.identity |= {"pool_prompts": pool_prompts, "timm_kwargs": timm_kwargs or {}}
        self.model = create_model(
            backbone,
            num_classes,
            num_prompts,
            mode=mode,
            execution=execution,
            prompt_dropout=prompt_dropout,
            pretrained=pretrained,
            pool_prompts=pool_prompts,
            head_init=head_init,
            **timm_arguments(image_size, timm_kwargs),
        )
        if gradient_checkpointing:
            cast(Any, self.model).set_grad_checkpointing()
        self._compiled = CompiledModel(self.model, compile) if compile else None
        self.recipes = (prompt, finetune)
        self.report, self.schedule = Report(), Schedule(1)
        self.run_seed, self._untrained = torch.initial_seed(), True
        self._frozen_weights = FrozenWeights()
        self.register_buffer("phase", torch.tensor(0))
        self.strict_loading = False  # checkpoints hold what is trained; checked when loading
        self.metrics = torch.nn.ModuleDict(
            {f"{split}_metrics": split_metrics(num_classes) for split in ("train", "val", "test")}
        )

    @property
    def phase_name(self) -> str:
        """The current phase, "prompt" or "finetune"."""
        return ("prompt", "finetune")[int(self.phase)]

    @property
    def is_over(self) -> bool:
        """Whether the Trainer has trained all epochs of the fit, and was not stopped before."""
        loop, epochs = self.trainer.fit_loop, self.trainer.max_epochs or 0
        whole = loop.epoch_loop._num_ready_batches_reached()
        return epochs < 0 or (whole and self.trainer.current_epoch >= epochs)

    @override
    def forward(self, images: Tensor) -> Tensor:
        with self._frozen_weights.cast(self.model):
            return cast(Tensor, (self._compiled or self.model)(images))

    @override
    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        loss = self._step(batch, batch_idx, "train")
        self._losses.note(loss, self.current_epoch, batch_idx)
        return loss

    @override
    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._step(batch, batch_idx, "val")

    @override
    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self._step(batch, batch_idx, "test")

    @override
    def predict_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:
        return cast(Tensor, self(batch[0])).float().softmax(dim=1)

    def _step(self, batch: Sequence[Tensor], batch_idx: int, stage: str) -> Tensor:
        metrics: Any = self.metrics[f"{stage}_metrics"]
        # Lightning remembers the object, and asks it for its value at the end of the epoch. To log
        # it in each step would take longer than to launch many of the step's kernels.
        begins = batch_idx == 0 or not metrics["loss"].update_called
        logits = self(batch[0]).float()
        if stage == "val":
            if batch_idx == 0:
                self.last_answers = LastAnswers(self.model)
            self.last_answers.batches.append(answers(logits, batch[1]))
        loss = add_batch(metrics, logits, batch[1])
        for name, metric in metrics.items() if begins else ():
            on_bar = stage == "val" and name != "loss"
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, prog_bar=on_bar)
        return loss

    def start_finetuning(self) -> None:
        """Begin a fine-tuning; the caller then calls :meth:`configure_optimizers` again."""
        self.phase.fill_(1)
        if self._compiled is not None:
            self._compiled.reset()

    @override
    def configure_optimizers(self) -> Any:
        """Return a fresh optimizer and learning rate schedule for the current phase."""
        phase = int(self.phase)
        if self.recipes[phase] is None:
            raise UsageError(
                "a checkpoint holds no recipe, so this PromptTuner can't be trained; give "
                "load_from_checkpoint the arguments prompt and finetune"
            )
        epochs = (self.schedule.prompt_epochs, self.schedule.finetune_epochs)[phase]
        every = steps_per_epoch(self.trainer)
        optimizer, rates = self.recipes[phase].build(
            self.model, self.global_batch, round(epochs * every), steps_per_epoch=every
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    @property
    def global_batch(self) -> int:
        """Number of images of one optimizer step over all devices."""
        per_device = images_per_batch(self.trainer.train_dataloader)
        return per_device * self.trainer.world_size * self.trainer.accumulate_grad_batches

    @override
    def configure_callbacks(self) -> list[pl.Callback]:
        # It adds none, but it is the first of all hooks, called before the data are prepared.
        require_supported(self.trainer.strategy)
        if self._compiled:
            require_compiler(self.trainer.strategy.root_device.type)
        trainer = cast(Any, self.trainer)
        if trainer.fast_dev_run:
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, RunWriter)]
        if self.trainer.state.fn == "fit":
            self.classes = None
            self.report, self.schedule = Report(), Schedule(max(1, self.trainer.max_epochs or 1))
            names = cast(Any, self.metrics)["val_metrics"] if type(self) is PromptTuner else ()
            logged = [f"{split}/{name}" for split in ("val", "train") for name in names]
            check_fit(trainer.callbacks, logged)
        for callback in trainer.callbacks:
            if isinstance(callback, ChecksRun):
                callback.check_run(self.trainer, self)
        self._share_classes()
        return []

    @override
    def setup(self, stage: str) -> None:
        data, classes = image_data(self.trainer), int(cast(Any, self.model).num_classes)
        if stage == "fit" and data is not None and data.num_classes != classes:
            raise UsageError(
                f"num_classes={classes}, but {data.source} has {data.num_classes} classes; give it"
            )
        _ = self.backbone_fingerprint  # before a precision such as "bf16-true" rounds the weights
        self.resumed, self.run_seed = Progress(0, 0), torch.initial_seed()
        self._losses, self.last_answers = LossGuard(), LastAnswers(self.model)
        if stage == "fit" and data is not None:
            self.classes = data.classes

    @override
    def teardown(self, stage: str) -> None:
        self._frozen_weights = FrozenWeights()
        if stage == "fit":  # each batch has set another
            torch.manual_seed(self.run_seed)
        leave_group_at_exit()

    @override
    def on_fit_start(self) -> None:
        if int(self.phase) and not any(self.resumed):
            raise UsageError(
                "the prompts were condensed already; make a new PromptTuner, or resume by ckpt_path"
            )
        starts, self._untrained = self._untrained and not any(self.resumed), False
        if starts and self.made_by["prompt_init"] == "tokens":
            start_from_tokens(self.trainer, self.model, self.run_seed)

    @override
    def on_train_epoch_start(self) -> None:
        self._begin_epoch()
        self.log("phase", float(self.phase), on_epoch=True, sync_dist=True)

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if is_read(self.trainer, batch_idx):
            self._read_losses()

    @override
    def on_train_epoch_end(self) -> None:
        self._read_losses()

    @override
    def on_train_end(self) -> None:
        if not (self.is_over or cast(Any, self.trainer).fast_dev_run):
            rank_zero_warn(
                f"the run was stopped in epoch {self.trainer.current_epoch} of "
                f"{self.trainer.max_epochs}: it is not finished, so it has no results and no "
                "adapter; with the callback PhaseCheckpoint it could be resumed"
            )

    def _read_losses(self) -> None:
        self._losses.require(self.trainer)
        self._losses.warn(int(cast(Any, self.model).num_classes))

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # The module's own `log` would copy the rate to the device and back, in each step.
        step, every = self.trainer.global_step, cast(Any, self.trainer).log_every_n_steps
        if every and (step + 1) % every == 0:
            for logger in self.trainer.loggers:
                logger.log_metrics({"learning_rate": optimizer.param_groups[0]["lr"]}, step=step)


def require_tuner(module: pl.LightningModule) -> PromptTuner:
    """Return ``module`` if it is a PromptTuner, and raise a UsageError if it is not."""
    if not isinstance(module, PromptTuner):
        raise UsageError(f"{type(module).__name__} is not a pcvpt.PromptTuner")
    return module
