import csv
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PhaseRecipe, PromptTuner, UsageError
from pcvpt.callbacks import PhaseCheckpoint
from pcvpt.data import InputSpec
from pcvpt.data.samplers import IGNORED
from pcvpt.training.module import require_tuner

LABELS = torch.tensor([2] * 12 + [1] * 3 + [0])  # unbalanced
SGD = partial(torch.optim.SGD, momentum=0.9)


def _tuner(**options: Any) -> PromptTuner:
    recipe = PhaseRecipe(SGD, base_lr=2.0, weight_decay=0.1, warmup_epochs=1)
    defaults = {"num_classes": 3, "prompt": recipe, "finetune": recipe, "num_prompts": 2}
    return PromptTuner(**{**defaults, "backbone": "vit_demo_patch8_32", **options})


def _images() -> Tensor:
    return torch.randn(len(LABELS), 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _loader(batch_size: int = 5) -> DataLoader[Any]:
    return DataLoader(TensorDataset(_images(), LABELS), batch_size=batch_size)


def _trainer(folder: Path, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        **{
            "accelerator": "cpu",
            "default_root_dir": folder,
            "logger": False,
            "max_epochs": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **options,
        }
    )


@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_equal_those_computed_by_hand(tmp_path: Path, stage: str) -> None:
    module = _tuner()
    trainer = _trainer(tmp_path)
    run = trainer.validate if stage == "val" else trainer.test
    (logged,) = run(module, _loader(), verbose=False)
    with torch.no_grad():
        logits = module.eval()(_images())
    hits = logits.argmax(1) == LABELS
    classes = torch.stack([hits[label == LABELS].float().mean() for label in range(3)])
    assert logged[f"{stage}/accuracy"] == pytest.approx(float(hits.float().mean()))
    assert logged[f"{stage}/accuracy_per_class"] == pytest.approx(float(classes.mean()))
    assert logged[f"{stage}/loss"] == pytest.approx(float(F.cross_entropy(logits, LABELS)))
    assert abs(logged[f"{stage}/accuracy"] - logged[f"{stage}/accuracy_per_class"]) > 0.05


@pytest.mark.parametrize("stage", ["val", "test"])
def test_padding_counts_for_nothing(tmp_path: Path, stage: str) -> None:
    padded = torch.cat([LABELS, torch.full((9,), IGNORED)])  # the last batch is all padding
    images = torch.cat([_images(), torch.randn(9, 3, 32, 32)])
    loader = DataLoader(TensorDataset(images, padded), batch_size=5)
    module, trainer = _tuner(), _trainer(tmp_path)
    run = trainer.validate if stage == "val" else trainer.test
    (expected,) = run(module, _loader(), verbose=False)
    (logged,) = run(module, loader, verbose=False)
    assert logged == pytest.approx(expected)


def test_a_batch_of_padding_alone_has_loss_zero() -> None:
    labels = torch.full((16,), IGNORED)
    loss = _tuner().training_step([_images(), labels], 0)
    loss.backward()
    assert loss.item() == 0


def test_metrics_start_anew_in_each_epoch(tmp_path: Path) -> None:
    trainer, module = _trainer(tmp_path), _tuner()
    first = trainer.validate(module, _loader(), verbose=False)
    torch.nn.init.constant_(module.model.head.weight, 0.0)
    module.model.head.bias.data = torch.tensor([9.0, 0.0, 0.0])
    (second,) = trainer.validate(module, _loader(), verbose=False)
    assert second["val/accuracy"] == pytest.approx(1 / 16)
    assert first != [second]


def test_predictions_are_probabilities(tmp_path: Path) -> None:
    module = _tuner()
    batches = _trainer(tmp_path).predict(module, _loader())
    probabilities = torch.cat(batches)
    assert probabilities.shape == (16, 3)
    expected = module.model.eval()(_images()).detach().softmax(1)
    torch.testing.assert_close(probabilities, expected)


@pytest.mark.parametrize(("batch", "accumulate"), [(4, 1), (4, 2), (8, 1)])
def test_the_learning_rate_follows_the_images_of_a_step(
    tmp_path: Path, batch: int, accumulate: int
) -> None:
    recipe = PhaseRecipe(SGD, base_lr=2.0, schedule="constant")
    trainer = _trainer(tmp_path, accumulate_grad_batches=accumulate)
    trainer.fit(_tuner(prompt=recipe), _loader(batch))
    for group in trainer.optimizers[0].param_groups:
        assert group["lr"] == 2.0 * batch * accumulate / 256


def test_an_accumulated_step_counts_once_in_the_schedule(tmp_path: Path) -> None:
    recipe = PhaseRecipe(SGD, base_lr=2.0)
    trainer = _trainer(tmp_path, accumulate_grad_batches=2, max_epochs=2)
    trainer.fit(_tuner(prompt=recipe), _loader(4))
    assert trainer.global_step == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("accumulate", "every", "steps"), [(1, 1, [0, 1, 2, 3]), (2, 2, [1])])
def test_the_board_has_the_rate_of_the_steps_that_are_logged(
    tmp_path: Path, accumulate: int, every: int, steps: list[int]
) -> None:
    logger = CSVLogger(tmp_path)
    trainer = _trainer(
        tmp_path, logger=logger, accumulate_grad_batches=accumulate, log_every_n_steps=every
    )
    recipe = PhaseRecipe(SGD, base_lr=2.0)
    trainer.fit(_tuner(prompt=recipe), _loader(4))
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["learning_rate"]]
    logged = {int(row["step"]): float(row["learning_rate"]) for row in rows}
    assert len(rows) == len(logged)
    full = recipe.learning_rate(4 * accumulate)
    expected = {step: full * recipe.factor(step, 4 // accumulate, 4 / accumulate) for step in steps}
    assert logged == pytest.approx(expected)


def test_only_prompts_and_head_weight_are_decayed(tmp_path: Path) -> None:
    module = _tuner(finetune=PhaseRecipe(SGD, weight_decay=0.3))
    trainer = _trainer(tmp_path)
    trainer.fit(module, _loader())
    decay = {
        id(p): g["weight_decay"] for g in trainer.optimizers[0].param_groups for p in g["params"]
    }
    model = module.model
    assert decay == {
        id(model.prompts.values): 0.1,
        id(model.head.weight): 0.1,
        id(model.head.bias): 0.0,
    }


def test_only_prompts_and_head_are_trained(tmp_path: Path) -> None:
    module = _tuner()
    before = {name: value.nan_to_num() for name, value in module.state_dict().items()}
    _trainer(tmp_path).fit(module, _loader())
    after = {name: value.nan_to_num() for name, value in module.state_dict().items()}
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"model.prompts.values", "model.head.weight", "model.head.bias"}


def test_the_input_is_what_the_backbone_expects() -> None:
    assert _tuner(pretrained=False).input_spec == InputSpec(
        (32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", crop=1.0
    )
    assert _tuner(pretrained=False, image_size=64).input_spec.image_size == (64, 64)


def test_the_phase_changes_once_and_is_saved() -> None:
    module = _tuner(pretrained=False)
    assert module.phase_name == "prompt"
    module.start_finetuning()
    assert module.phase_name == "finetune"
    assert int(module.state_dict()["phase"]) == 1


def test_another_module_is_no_tuner() -> None:
    with pytest.raises(UsageError, match=r"LightningModule is not a pcvpt\.PromptTuner"):
        require_tuner(lightning.LightningModule())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    trainer = _trainer(tmp_path, callbacks=[PhaseCheckpoint()])
    trainer.fit(_tuner(), _loader(), _loader())
    return tmp_path / "checkpoints" / "prompt-last.ckpt"


def _test_with(module: PromptTuner, checkpoint: Path) -> Any:
    trainer = _trainer(checkpoint.parent)
    return trainer.test(module, _loader(), ckpt_path=checkpoint, verbose=False)


def test_a_checkpoint_brings_back_the_trained_model(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.manual_seed(5)
    module = _tuner()
    assert not torch.equal(module.model.head.weight, saved["model.head.weight"])
    _test_with(module, checkpoint)
    for name, value in saved.items():
        torch.testing.assert_close(module.state_dict()[name], value, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_prompts": 3}, "num_prompts=2.*num_prompts=3"),
        ({"mode": "shallow"}, "mode='deep'.*mode='shallow'"),
        (
            {"backbone": "vit_tiny_patch16_224", "pretrained": False, "image_size": 32},
            "backbone='vit_demo_patch8_32'.*backbone='vit_tiny_patch16_224'",
        ),
        ({"num_classes": 4}, "head.*classes: 3 and 4"),
    ],
    ids=["prompts", "mode", "backbone", "classes"],
)
def test_a_checkpoint_of_another_model_is_refused_by_name(
    checkpoint: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        _test_with(_tuner(**options), checkpoint)


def test_a_checkpoint_of_other_backbone_weights_is_refused(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)["pcvpt"]["fingerprint"]
    assert saved == _tuner().backbone_fingerprint
    other = _tuner(pretrained=False)
    with pytest.raises(UsageError, match=rf"{saved}.*{other.backbone_fingerprint}.*`pretrained`"):
        _test_with(other, checkpoint)


def test_a_checkpoint_that_pools_otherwise_is_refused(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    saved["pcvpt"]["pool_prompts"] = True
    torch.save(saved, checkpoint)
    with pytest.raises(UsageError, match=r"pool_prompts=True.*pool_prompts=False"):
        _test_with(_tuner(), checkpoint)


def test_a_checkpoint_of_an_older_version_still_loads(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    del saved["pcvpt"]["fingerprint"], saved["pcvpt"]["pool_prompts"]
    torch.save(saved, checkpoint)
    module = _tuner(pretrained=False)
    _test_with(module, checkpoint)
    assert torch.equal(module.model.head.weight, saved["state_dict"]["model.head.weight"])


def test_a_run_in_half_precision_keeps_the_fingerprint_of_the_weights(tmp_path: Path) -> None:
    module, expected = _tuner(), _tuner().backbone_fingerprint
    callbacks = [PhaseCheckpoint()]
    _trainer(tmp_path, precision="bf16-true", callbacks=callbacks).fit(module, _loader(), _loader())
    assert module.model.cls_token.dtype == torch.bfloat16
    path = tmp_path / "checkpoints" / "prompt-last.ckpt"
    assert torch.load(path, weights_only=True)["pcvpt"]["fingerprint"] == expected


@pytest.mark.parametrize("name", ["model.head.bias", "model.prompts.keep", "phase"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_its_name(
    checkpoint: Path, name: str
) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    del saved["state_dict"][name]
    torch.save(saved, checkpoint)
    with pytest.raises(UsageError, match=f"lacks {name}"):
        _test_with(_tuner(), checkpoint)


def test_a_checkpoint_of_other_software_is_refused(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    del saved["pcvpt"]
    torch.save(saved, checkpoint)
    with pytest.raises(UsageError, match="not a checkpoint of pcvpt"):
        _test_with(_tuner(), checkpoint)
