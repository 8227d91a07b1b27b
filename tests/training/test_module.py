import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from factories import TinyData, Watch, make_trainer, make_tuner, recipe
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)

from pcvpt import PromptTuner, UsageError, merge_prompts
from pcvpt.callbacks import PhaseCheckpoint
from pcvpt.data import InputSpec
from pcvpt.data.samplers import IGNORED

LABELS = torch.tensor([2] * 12 + [1] * 3 + [0])  # unbalanced


def _tuner(**options: Any) -> PromptTuner:
    strong = recipe(base_lr=2.0, weight_decay=0.1)
    defaults = {"num_classes": 3, "prompt": strong, "finetune": strong, "num_prompts": 2}
    return make_tuner(**{**defaults, **options})


def _images() -> Tensor:
    return torch.randn(len(LABELS), 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _loader(batch_size: int = 5, padding: int = 0) -> DataLoader[Any]:
    images = torch.cat([_images(), torch.randn(padding, 3, 32, 32)])
    labels = torch.cat([LABELS, torch.full((padding,), IGNORED)])
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def _trainer(folder: Path, *callbacks: Any, **options: Any) -> lightning.Trainer:
    return make_trainer(folder, callbacks, **{"max_epochs": 1, **options})


@pytest.mark.parametrize("padding", [0, 9])  # with nine, the last batch is nothing but padding
@pytest.mark.parametrize("stage", ["val", "test"])
def test_metrics_equal_those_computed_here_and_ignore_padding(
    tmp_path: Path, stage: str, padding: int
) -> None:
    module, trainer = _tuner(), _trainer(tmp_path)
    run = trainer.validate if stage == "val" else trainer.test
    (logged,) = run(module, _loader(padding=padding), verbose=False)
    with torch.no_grad():
        logits = module.eval()(_images())
    hits = logits.argmax(1) == LABELS
    classes = torch.stack([hits[label == LABELS].float().mean() for label in range(3)])
    assert logged == {
        f"{stage}/accuracy": pytest.approx(float(hits.float().mean())),
        f"{stage}/accuracy_per_class": pytest.approx(float(classes.mean())),
        f"{stage}/loss": pytest.approx(float(F.cross_entropy(logits, LABELS))),
    }
    assert abs(logged[f"{stage}/accuracy"] - logged[f"{stage}/accuracy_per_class"]) > 0.05
    torch.nn.init.constant_(module.model.head.weight, 0.0)  # metrics start again in each epoch
    module.model.head.bias.data = torch.tensor([9.0, 0.0, 0.0])
    (second,) = run(module, _loader(padding=padding), verbose=False)
    assert second[f"{stage}/accuracy"] == pytest.approx(1 / 16)


def test_a_loss_that_is_no_number_ends_the_run_and_names_batch_and_remedy(tmp_path: Path) -> None:
    images = _images()
    images[7] = torch.nan
    loader = DataLoader(TensorDataset(images, LABELS), batch_size=5)
    with pytest.raises(UsageError, match=r"batch 2 of epoch 1 .*base_lr.*no checkpoint"):
        _trainer(tmp_path).fit(_tuner(), loader)


def test_a_batch_of_padding_alone_has_loss_zero() -> None:
    loss = _tuner().training_step([_images(), torch.full((16,), IGNORED)], 0)
    loss.backward()
    assert loss.item() == 0


def test_predictions_are_probabilities(tmp_path: Path) -> None:
    module = _tuner()
    probabilities = torch.cat(_trainer(tmp_path).predict(module, _loader()))
    expected = module.model.eval()(_images()).detach().softmax(1)
    torch.testing.assert_close(probabilities, expected)


@pytest.mark.parametrize(
    ("batch", "accumulate", "every", "steps"),
    [(4, 1, 1, [0, 1, 2, 3]), (8, 1, 1, [0, 1]), (4, 2, 2, [1])],
)
def test_the_rate_follows_the_images_of_a_step_and_falls_to_zero(
    tmp_path: Path, batch: int, accumulate: int, every: int, steps: list[int]
) -> None:
    logger, cosine = CSVLogger(tmp_path), recipe(base_lr=2.0, warmup_epochs=0)
    options = {"accumulate_grad_batches": accumulate, "log_every_n_steps": every}
    trainer = _trainer(tmp_path, logger=logger, **options)
    trainer.fit(_tuner(prompt=cosine), _loader(batch))
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["learning_rate"]]
    logged = {int(row["step"]): float(row["learning_rate"]) for row in rows}
    assert len(rows) == len(logged)
    total, full = 16 // (batch * accumulate), 2.0 * batch * accumulate / 256
    assert logged == pytest.approx({n: full * cosine.factor(n, total, total) for n in steps})
    assert trainer.global_step == total
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return zip(_images(), LABELS, strict=True)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_rate_is_that_of_any_loader_of_the_same_batches(tmp_path: Path, streamed: bool) -> None:
    images = TensorDataset(_images(), LABELS)
    batches = BatchSampler(SequentialSampler(images), 8, drop_last=False)
    own = DataLoader(_Stream(), 8) if streamed else DataLoader(images, batch_sampler=batches)
    watch = Watch()
    _trainer(tmp_path, watch, limit_train_batches=2).fit(_tuner(), own)
    assert watch.rates == pytest.approx([2.0 * 8 / 256 * n / 3 for n in (1, 2)])


@pytest.mark.parametrize(
    ("loader", "named"),
    [
        (DataLoader(_Stream(), 8), "number of steps of an epoch .*limit_train_batches"),
        ([(_images(), LABELS)], "images of a batch.*attribute batch_size"),
    ],
)
def test_a_loader_on_which_no_rate_can_be_based_is_refused(
    tmp_path: Path, loader: Any, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        _trainer(tmp_path).fit(_tuner(), loader)


def test_data_with_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"num_classes=3, but TinyData has 4 classes"):
        _trainer(tmp_path).fit(_tuner(), datamodule=TinyData())


def test_only_prompts_and_head_are_trained_and_biases_not_decayed(tmp_path: Path) -> None:
    module = _tuner(finetune=recipe(weight_decay=0.3))
    before = {name: value.nan_to_num() for name, value in module.state_dict().items()}
    trainer = _trainer(tmp_path)
    trainer.fit(module, _loader())
    after = {name: value.nan_to_num() for name, value in module.state_dict().items()}
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"model.prompts.values", "model.head.weight", "model.head.bias"}
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = trainer.optimizers[0].param_groups
    decay = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay == {name: 0.0 if name.endswith("bias") else 0.1 for name in moved}


def test_the_input_is_what_the_backbone_expects() -> None:
    half = (0.5, 0.5, 0.5)
    expected = InputSpec((32, 32), half, half, "bilinear", crop=1.0)
    assert _tuner(pretrained=False).input_spec == expected
    assert _tuner(pretrained=False, image_size=64).input_spec.image_size == (64, 64)


def _saved(folder: Path, **options: Any) -> tuple[PromptTuner, dict[str, Any]]:
    module, trainer = _tuner(), _trainer(folder, PhaseCheckpoint(), **options)
    trainer.fit(module, _loader(), _loader())
    return module, torch.load(folder / "checkpoints" / "prompt-last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _saved(tmp_path_factory.mktemp("trained"))[1]


def _test_with(folder: Path, checkpoint: dict[str, Any], **options: Any) -> PromptTuner:
    torch.save(checkpoint, folder / "saved.ckpt")
    torch.manual_seed(5)
    module = _tuner(**options)
    _trainer(folder).test(module, _loader(), ckpt_path=folder / "saved.ckpt", verbose=False)
    return module


def test_a_checkpoint_restores_the_trained_model(tmp_path: Path, trained: dict[str, Any]) -> None:
    state = _test_with(tmp_path, trained).state_dict()
    for name, value in trained["state_dict"].items():
        torch.testing.assert_close(state[name], value, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("form", ["prefix", "keys and values", "merged"])
def test_a_checkpoint_of_keys_and_values_is_restored_where_prompts_can_be_such(
    tmp_path: Path, form: str
) -> None:
    mode = "prefix" if form == "prefix" else "deep"
    module, trainer = _tuner(mode=mode), _trainer(tmp_path, PhaseCheckpoint())
    if form == "keys and values":
        module.model.use_keys_values()
    elif form == "merged":
        module.model.prompts.apply_merge(merge_prompts(module.model, [(_images(),)], 0.5))
    trainer.fit(module, _loader(), _loader())
    saved = torch.load(tmp_path / "checkpoints" / "prompt-last.ckpt", weights_only=True)
    state = _test_with(tmp_path, saved, mode=mode).state_dict()
    assert ("model.prompts.log_weight" in state) == (form == "merged")
    for name, value in saved["state_dict"].items():
        torch.testing.assert_close(state[name], value, atol=0, rtol=0, equal_nan=True)
    with pytest.raises(UsageError, match="execution='tokens' computes prompts as tokens"):
        _test_with(tmp_path, saved, mode=mode, execution="tokens")
    other = "deep" if mode == "prefix" else "prefix"
    with pytest.raises(UsageError, match=f"mode='{mode}'.*mode='{other}'"):
        _test_with(tmp_path, saved, mode=other)


TINY = {"backbone": "vit_tiny_patch16_224", "pretrained": False, "image_size": 32}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_prompts": 3}, "num_prompts=2.*num_prompts=3"),
        ({"mode": "shallow"}, "mode='deep'.*mode='shallow'"),
        (TINY, "backbone='vit_demo_patch8_32'.*backbone='vit_tiny_patch16_224'"),
        ({"num_classes": 4}, "head.*classes: 3 and 4"),
        ({"pretrained": False}, "{fingerprint}.*`pretrained`"),
    ],
    ids=["prompts", "mode", "backbone", "classes", "weights"],
)
def test_a_checkpoint_of_another_model_is_refused_by_name(
    tmp_path: Path, trained: dict[str, Any], options: dict[str, Any], named: str
) -> None:
    named = named.format(fingerprint=_tuner().backbone_fingerprint)
    with pytest.raises(UsageError, match=named):
        _test_with(tmp_path, trained, **options)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda saved: saved["state_dict"].pop("model.head.bias"), "model.head.bias"),
        (lambda saved: saved["state_dict"].pop("model.prompts.keep"), "model.prompts.keep"),
        (lambda saved: saved["state_dict"].pop("phase"), "phase"),
        (lambda saved: saved.pop("pcvpt"), "not a checkpoint of pcvpt"),
        (lambda saved: saved["pcvpt"].update(pool_prompts=True), "pool_prompts=True.*=False"),
    ],
)
def test_a_changed_checkpoint_is_refused_by_name(
    tmp_path: Path, trained: dict[str, Any], change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    inner = {name: dict(trained[name]) for name in ("state_dict", "pcvpt")}
    changed = {**trained, **inner}
    change(changed)
    with pytest.raises(UsageError, match=named):
        _test_with(tmp_path, changed)


def test_a_run_in_half_precision_keeps_the_fingerprint_of_the_weights(tmp_path: Path) -> None:
    module, saved = _saved(tmp_path, precision="bf16-true")
    assert module.model.cls_token.dtype == torch.bfloat16
    assert saved["pcvpt"]["fingerprint"] == _tuner().backbone_fingerprint
