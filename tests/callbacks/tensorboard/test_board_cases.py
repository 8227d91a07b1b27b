"""The page in all kinds of runs, none of which may change because it is written."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from factories import SMALL_SWIN, TinyData, Waits, make_trainer, make_tuner
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginEventAccumulator,
)
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PromptCondensation
from pcvpt.callbacks import PhaseCheckpoint, PromptInspector
from pcvpt.callbacks.tensorboard import inspector, probe_images
from pcvpt.data import Item, Splits
from pcvpt.models import PromptBank

slow = pytest.mark.slow
OF_MODEL = {"prompts/attention", "prompts/similarity"}
KEPT = {"prompts/kept"}
OF_MASK = KEPT | {"prompts/scores"}
EVERY = OF_MODEL | OF_MASK


def _tags(folder: str | None, kind: str = "images") -> set[str]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return set(events.Tags()[kind])


def _run(folder: Path, *args: Any) -> str:
    """Return the folder of the page of a short run."""
    logger = TensorBoardLogger(folder, name="board")
    run = factories.fit(folder, *args, callbacks=[PromptInspector()], logger=logger)
    return str(run.trainer.log_dir)


class Partial(TinyData):
    """Data without some of their splits, or with another test image."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(check_images=False)
        self.changes = changes

    def read_splits(self) -> Splits:
        return replace(super().read_splits(), **self.changes)


PROBE = {"mode": "linear", "num_prompts": 0}
TWO = {"prompts/kept_0.1", "prompts/kept_0.5"}


@pytest.mark.parametrize(
    ("condense", "module", "missing", "images", "points"),
    [
        ({"keep": None}, PROBE, [], set(), "test"),
        ({}, {"mode": "shallow"}, ["val", "test"], EVERY, "train"),
        *(
            pytest.param(*row, marks=slow)
            for row in (
                ({"keep": None}, {}, [], OF_MODEL, "test"),
                ({"keep": [0.1, 0.5], "finetune_keep": []}, {}, [], EVERY ^ TWO ^ KEPT, "test"),
                ({}, {}, ["val"], EVERY, "test"),
                ({}, {}, ["test"], EVERY, "val"),
                ({}, {"mode": "prefix"}, [], EVERY, "test"),
                ({}, SMALL_SWIN, [], EVERY, "test"),
                ({}, {**SMALL_SWIN, "mode": "prefix"}, [], EVERY, "test"),
                ({}, {**SMALL_SWIN, "mode": "shallow"}, [], EVERY, "test"),
            )
        ),
    ],
)
def test_each_kind_of_run_shows_what_it_has(
    tmp_path: Path, condense: Any, module: Any, missing: list[str], images: set[str], points: str
) -> None:
    folder = _run(tmp_path, condense, make_tuner(**module), Partial(**dict.fromkeys(missing, ())))
    assert _tags(folder) == images
    condensed = "prompts/scores" in images
    assert bool(_tags(folder, "histograms")) == condensed
    scalars, mode = _tags(folder, "scalars"), module.get("mode", "deep")
    assert ("prompt_norm/block_01" in scalars) == (mode in ("deep", "prefix"))
    blocks = {f"attention/block_{n:02d}" for n in range(4 if "backbone" in module else 6)}
    assert scalars & blocks == (blocks if mode != "linear" else set())
    state = "condensed" if condensed else "at the end"
    assert f"features of {points}, {state}" in Path(folder, "projector_config.pbtxt").read_text()


@pytest.mark.parametrize("has_val", [False, pytest.param(True, marks=slow)])
def test_loaders_alone_are_enough(tmp_path: Path, has_val: bool) -> None:
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    logger = TensorBoardLogger(tmp_path, name="board")
    trainer = make_trainer(tmp_path, [condense, PromptInspector()], logger=logger)
    trainer.fit(make_tuner(), loader, loader if has_val else None)
    # Without val there are no images to show, only prompts.
    assert _tags(trainer.log_dir) == (EVERY if has_val else OF_MASK | {"prompts/similarity"})


def test_an_image_that_cannot_be_read_ends_no_run(tmp_path: Path) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(b"none")
    with pytest.warns(UserWarning, match=r"No images on the board: .*broken\.png"):
        folder = _run(tmp_path, {"keep": None}, None, Partial(test=(Item(file, 0),)))
    assert "prompts/similarity" in _tags(folder)
    assert not Path(folder, "projector_config.pbtxt").exists()


@slow
def test_a_run_resumed_in_its_folder_shows_nothing_twice(tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None, **options: Any) -> dict[str, list[int]]:
        logger = TensorBoardLogger(tmp_path, name="board", version=0, **options)
        inspector = PromptInspector(similarity=False)
        callbacks = [inspector, PhaseCheckpoint()]
        factories.fit(tmp_path, callbacks=callbacks, logger=logger, ckpt_path=ckpt_path)
        events = PluginEventAccumulator(logger.log_dir)  # as the page itself reads it
        events.Reload()
        tags = set(events.Tags()["tensors"]) - {"prompts/kept_per_block"}  # which is over blocks
        return {tag: [event.step for event in events.Tensors(tag)] for tag in tags}

    full = run()
    saved = tmp_path / "board" / "version_0" / "checkpoints" / "prompt-last.ckpt"
    step = torch.load(saved, weights_only=True)["global_step"]  # as `--resume` does
    assert run(saved, purge_step=step) == full
    assert {"prompts/scores", "val/accuracy"} <= full.keys()
    config = (saved.parents[1] / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 2


def test_no_bit_of_the_training_changes(tmp_path: Path) -> None:
    def run(name: str, *callbacks: Any) -> tuple[dict[str, Any], Tensor]:
        torch.manual_seed(1)
        module, logger = make_tuner(prompt_dropout=0.3), TensorBoardLogger(tmp_path, name=name)
        options = {"callbacks": callbacks, "logger": logger, "gradient_clip_val": 0.1}
        run = factories.fit(tmp_path / name, None, module, **options)
        return run.outcome(), torch.get_rng_state()

    (plain, random), (seen, random_seen) = run("plain"), run("seen", PromptInspector())
    assert factories.differences(plain, seen) == []
    assert torch.equal(random, random_seen)


def test_no_step_waits_for_the_norm_of_a_gradient() -> None:
    bank, norms, expected = PromptBank(3, 2, [4, 4, 8], 0.5), inspector._GradientNorms(), []
    assert norms.read_mean() is None
    for scale in 1.0, 3.0:
        for values in bank.parameters():
            values.grad = torch.randn_like(values) * scale
        with Waits() as mode:
            norms.add(bank)
        assert mode.found == []
        rows = [row for values in bank.parameters() for row in values.grad]
        expected.append(torch.stack([row.norm() for row in rows]))
    torch.testing.assert_close(norms.read_mean(), torch.stack(expected).mean(0))
    assert norms.read_mean() is None


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"max_epochs": 1, "logger": "csv"}])
def test_a_logger_gets_what_it_can_show(tmp_path: Path, options: dict[str, Any]) -> None:
    has_table = "logger" in options
    if has_table:
        options = {**options, "logger": CSVLogger(tmp_path)}
    trainer = make_trainer(tmp_path, [PromptInspector()], **options)
    trainer.fit(make_tuner(), datamodule=TinyData())
    assert not [path for kind in ("*tfevents*", "*.png", "*.tsv") for path in tmp_path.rglob(kind)]
    numbers = ["attention/block_00" in file.read_text() for file in tmp_path.rglob("metrics.csv")]
    assert numbers == [True] * has_table


@pytest.mark.parametrize(
    "part",
    [
        "named",  # while the prompts are masked
        *(
            pytest.param(part, marks=slow)
            for part in ("mark_start", "prompt_norms", "predict", "final_metrics")
        ),
    ],
)
def test_an_error_ends_the_board_with_one_warning_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("no such number")

    monkeypatch.setattr(probe_images if part == "predict" else inspector, part, fail)
    logger = TensorBoardLogger(tmp_path, name="board")
    with pytest.warns(UserWarning, match="The board ends here: ZeroDivisionError") as warned:
        run = factories.fit(tmp_path, callbacks=[PromptInspector()], logger=logger)
    assert sum("The board ends here" in str(each.message) for each in warned) == 1
    assert "accuracy_finetuned" in run.report
    _tags(run.trainer.log_dir)  # what was written before can be read


@pytest.mark.parametrize(
    ("precision", "module", "condense"),
    [
        ("bf16-true", {}, {}),
        ("64-true", {}, {}),
        *(
            pytest.param(precision, module, condense, marks=slow)
            for precision in ("bf16-true", "64-true", "bf16-mixed", "16-mixed")
            for module, condense in (
                ({"mode": "prefix"}, {}),
                ({"mode": "shallow"}, {"method": "merge"}),
                (SMALL_SWIN, {"method": "merge"}),
            )
        ),
    ],
)
def test_every_precision_of_a_run_shows_the_same(
    tmp_path: Path, precision: str, module: Any, condense: Any
) -> None:
    logger, tuner = TensorBoardLogger(tmp_path, name="board"), make_tuner(**module)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The board ends here")
        run = factories.fit(
            tmp_path,
            condense,
            tuner,
            callbacks=[PromptInspector()],
            logger=logger,
            precision=precision,
        )
    merged = condense and run.module.model.prompts.assignment is not None
    masks = {"prompts/merged"} if merged else KEPT
    assert _tags(run.trainer.log_dir) >= OF_MODEL | masks
