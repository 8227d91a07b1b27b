"""What TensorBoard is shown of a run in miniature."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from pcvpt import PromptCondensation, UsageError
from pcvpt.analysis.cost import condensed_cost
from pcvpt.callbacks import PhaseCheckpoint, PromptInspector, RunSummary

BLOCKS, PROMPTS, STEPS = 6, 4, 5  # of the demo's backbone, of each block, of an epoch
Fit = Callable[..., Any]


def _board(folder: Path) -> EventAccumulator:
    board = EventAccumulator(str(folder), size_guidance=dict.fromkeys(_ALL, 0))
    board.Reload()
    return board


_ALL = ("scalars", "histograms", "images", "tensors")


def _scalars(board: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def _texts(board: EventAccumulator) -> dict[str, list[str]]:
    found = [tag for tag in board.Tags()["tensors"] if tag.endswith("/text_summary")]
    return {
        tag.removesuffix("/text_summary"): [
            event.tensor_proto.string_val[0].decode() for event in board.Tensors(tag)
        ]
        for tag in found
    }


def _pixels(board: EventAccumulator, tag: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        for event in board.Images(tag)
    ]


def _require_pictures(board: EventAccumulator) -> None:
    """Fail unless each image shows something."""
    for tag in board.Tags()["images"]:
        for image in _pixels(board, tag):
            assert image.ndim == 3, tag
            assert min(image.shape[:2]) > 100, tag
            drawn = (np.abs(image.astype(int) - 255).max(axis=2) > 30).mean()
            assert image.std() > 8, tag
            assert drawn > 0.02, tag


def _projector(folder: Path) -> dict[str, Any]:
    config = ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    return {entry.tensor_name: entry for entry in config.embeddings}


def _blocks(name: str) -> set[str]:
    return {f"{name}/block_{block:02d}" for block in range(BLOCKS)}


class _Rates(Callback):
    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.norms: list[Any] = getattr(self, "norms", [])

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        (values,) = pl_module.model.prompts.parameters()
        self.norms.append(values.grad.flatten(1).norm(dim=1))


def test_the_board_shows_all_that_it_promises(fit: Fit, tmp_path: Path, evaluate: Any) -> None:
    logger, seen = TensorBoardLogger(tmp_path, name="board"), _Rates()
    condense = PromptCondensation(prompt_epochs=2, finetune_epochs=2)
    callbacks = [PromptInspector(), seen, RunSummary()]
    _, module, watch = fit(condense, callbacks=callbacks, logger=logger)
    folder = Path(logger.log_dir)
    board = _board(folder)
    scalars = _scalars(board)
    values = {tag: [value for _, value in points] for tag, points in scalars.items()}

    # One time axis over both phases.
    for stage in "train", "val":
        for metric in "loss", "accuracy", "accuracy_per_class":
            assert len(values[f"{stage}/{metric}"]) == 4
    assert values["phase"] == [0, 0, 1, 1]
    assert values["learning_rate"] == pytest.approx(watch.rates)
    ends = [STEPS * epochs - 1 for epochs in (1, 2, 3, 4)]
    for tag in ("phase", "val/accuracy", "attention/block_00", "prompt_gradient/block_00"):
        assert [step for step, _ in scalars[tag]] == ends

    # Blocks.
    assert _blocks("attention") | _blocks("prompt_norm") | _blocks("prompt_gradient") <= {*scalars}
    norms = torch.stack(seen.norms).view(4, STEPS, BLOCKS).mean(1)
    for block in range(BLOCKS):
        found = values[f"prompt_gradient/block_{block:02d}"]
        torch.testing.assert_close(torch.tensor(found[:2]), norms[:2, block])
        assert all(0 < share < 1 for share in values[f"attention/block_{block:02d}"][:2])
    bank = module.model.prompts
    last = [(b, values[f"prompt_norm/block_{b:02d}"][-1]) for b in range(BLOCKS) if bank.count(b)]
    for block, value in last:
        kept = bank.layer_values(block)[bank.keep[block]]
        assert value == pytest.approx(float(kept.detach().norm(dim=1).mean()), rel=1e-5)

    # What condensing found.
    assert [v for _, v in scalars["prompts/kept_per_block"]] == condense.report["kept"]
    for name in "accuracy_before", "accuracy_masked", "accuracy_finetuned", "score_agreement":
        assert values[f"condense/{name}"][-1] == pytest.approx(condense.report[name], rel=1e-5)
    assert json.loads((folder / "results.json").read_text())["score_agreement"] <= 1
    histograms = sorted(board.Tags()["histograms"])
    assert histograms == sorted(_blocks("scores"))
    for layer, tag in enumerate(histograms):
        (event,) = board.Histograms(tag)
        assert event.histogram_value.num == PROMPTS
        assert abs(event.histogram_value.sum - float(bank.scores[layer].sum())) < 1e-6

    # Images.
    assert {tag: len(board.Images(tag)) for tag in board.Tags()["images"]} == {
        **dict.fromkeys(("prompts/kept", "prompts/per_block", "prompts/scores"), 1),
        **dict.fromkeys(("prompts/attention", "prompts/similarity", "val/sample"), 2),
        "val/confusion": 1,
    }
    _require_pictures(board)
    for tag in "prompts/attention", "prompts/similarity":
        before, after = _pixels(board, tag)
        assert not np.array_equal(before, after)

    # Words.
    texts = _texts(board)
    (text,) = texts["run/condensed"]
    assert f"at step {2 * STEPS}, before epoch 2" in text
    assert f"{sum(bank.counts())} of {BLOCKS * PROMPTS}" in text
    assert " | ".join(map(str, bank.counts())) in text
    (text,) = texts["run/card"]
    assert "backbone: vit_demo_patch8_32" in text
    macs = condensed_cost(module.model, [PROMPTS] * BLOCKS, "prefix").macs / 1e6
    assert f"multiply-accumulates per image | {macs:,.1f} M |" in text
    assert "data hash" in text
    (text,) = texts["run/confused"]
    assert "| class | taken for |" in text
    assert set(texts) == {"run/card", "run/condensed", "run/confused"}


def test_features_are_kept_with_labels_and_thumbnails_before_and_after_condensing(
    fit: Fit, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    _, module, _ = fit(condense, callbacks=[PromptInspector(embeddings=2)], logger=logger)
    folder = Path(logger.log_dir)
    entries = _projector(folder)
    assert set(entries) == {"features of test, all prompts", "features of test, condensed"}
    points = []
    for entry in entries.values():
        points.append(np.loadtxt(folder / entry.tensor_path, delimiter="\t"))
        rows = (folder / entry.metadata_path).read_text().splitlines()
        assert rows[0].split("\t") == ["class", "number", "predicted", "prediction"]
        assert [row.split("\t")[:2] for row in rows[1:]] == [["round", "0"], ["tall", "3"]]
        with Image.open(folder / entry.sprite.image_path) as sheet:
            assert sheet.size == (64, 64)  # two of 32 pixels, in a square
            assert np.asarray(sheet)[:32].std() > 8
        assert list(entry.sprite.single_image_dim) == [32, 32]
    before, after = points
    assert before.shape == after.shape == (2, module.model.num_features)
    assert not np.allclose(before, after)


def test_the_table_of_runs_has_settings_and_figures_of_both_phases(
    fit: Fit, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    condense = PromptCondensation(
        [0.1, 0.5], score="gate_batch", prompt_epochs=1, finetune_epochs=1
    )
    fit(condense, callbacks=[PromptInspector()], logger=logger, seed=5)
    folder = Path(logger.log_dir)
    assert [path for path in folder.rglob("*tfevents*") if path.parent != folder] == []
    board = _board(folder)
    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    settings = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()
    }
    assert settings["backbone"] == "vit_demo_patch8_32"
    assert settings["keep"] == "0.1, 0.5"
    expected = {"mode": "deep", "num_prompts": 4, "score": "gate_batch", "scope": "global"}
    expected |= {"prompt_lr": 0.5, "finetune_lr": 0.5, "global_batch": 8, "seed": 5}
    assert {name: settings[name] for name in expected} == expected
    content = board.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    tags = {metric.name.tag for metric in experiment.metric_infos}
    names = [f"accuracy_{what}_{b}" for what in ("masked", "finetuned") for b in (0.1, 0.5)]
    assert tags == {f"condense/{name}" for name in (*names, "accuracy_before", "score_agreement")}
    scalars = _scalars(board)
    for entry in condense.report["budgets"]:
        for what in "accuracy_masked", "accuracy_finetuned":
            (_, value) = scalars[f"condense/{what}_{entry['keep']}"][-1]
            assert value == pytest.approx(entry[what], rel=1e-5)


def test_the_page_of_custom_scalars_names_curves_that_are_there(fit: Fit, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    condense = PromptCondensation([0.1, 0.5], prompt_epochs=1, finetune_epochs=1)
    fit(condense, callbacks=[PromptInspector()], logger=logger)
    board = _board(Path(logger.log_dir))
    (event,) = board.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = [chart for category in layout.category for chart in category.chart]
    tags = board.Tags()["scalars"]
    for chart in charts:
        for pattern in chart.multiline.tag:
            assert any(re.search(pattern, tag) for tag in tags), pattern


def test_the_board_of_several_budgets_has_curves_over_the_number_of_prompts(
    fit: Fit, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    condense = PromptCondensation([0.1, 0.5], prompt_epochs=1, finetune_epochs=1)
    fit(condense, callbacks=[PromptInspector()], logger=logger)
    board = _board(Path(logger.log_dir))
    scalars = _scalars(board)
    for figure in "accuracy_masked", "accuracy_finetuned":
        points = scalars[f"condense/{figure}_by_prompts"]
        assert [step for step, _ in points] == [2, 12]
        for (_, value), entry in zip(points, condense.report["budgets"], strict=True):
            assert abs(value - entry[figure]) < 1e-4
    assert len(board.Histograms("scores/block_00")) == 1
    assert {tag: len(board.Images(tag)) for tag in board.Tags()["images"]} == {
        **dict.fromkeys(("prompts/kept_0.1", "prompts/kept_0.5", "prompts/scores"), 1),
        **dict.fromkeys(("prompts/attention", "prompts/similarity", "val/sample"), 2),
        **dict.fromkeys(("prompts/per_block", "val/confusion"), 1),
    }
    _require_pictures(board)
    for entry in condense.report["budgets"]:
        points = scalars[f"prompts/kept_per_block_{entry['keep']}"]
        assert points == list(enumerate(entry["kept"]))
    (text,) = _texts(board)["run/condensed_0.5"]
    for entry in condense.report["budgets"]:
        assert f"| {entry['keep']} | {entry['prompts_kept']} |" in text


def test_a_board_begun_amid_fine_tuning_shows_the_budget_at_hand(fit: Fit, tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None) -> EventAccumulator:
        logger = TensorBoardLogger(tmp_path, name="board")
        condense = PromptCondensation([0.1, 0.5], prompt_epochs=1, finetune_epochs=2)
        callbacks = [PromptInspector(), PhaseCheckpoint()]
        fit(condense, callbacks=callbacks, logger=logger, ckpt_path=ckpt_path)
        return _board(Path(logger.log_dir))

    run()
    saved = tmp_path / "board" / "version_0" / "checkpoints" / "finetune_0.5-best.ckpt"
    board = run(saved)
    assert {tag for tag in board.Tags()["images"] if "kept" in tag} == {"prompts/kept_0.5"}
    assert len(board.Histograms("scores/block_00")) == 1
    assert set(_texts(board)) == {"run/card", "run/condensed_0.5", "run/confused"}


def test_other_loggers_are_left_alone(fit: Fit, tmp_path: Path) -> None:
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    fit(condense, callbacks=[PromptInspector()], logger=CSVLogger(tmp_path))
    (table,) = tmp_path.rglob("metrics.csv")
    assert "condense/accuracy_masked" in table.read_text()
    assert "attention/" not in table.read_text()


@pytest.mark.parametrize("option", ["images", "embeddings"])
def test_a_negative_number_of_images_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=f"PromptInspector.{option}=-1; give 0 for none"):
        PromptInspector(**{option: -1})


def test_each_part_can_be_left_out(fit: Fit, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    switches = ("scores", "attention", "similarity", "norms", "confusion", "card", "hparams")
    inspector = PromptInspector(**dict.fromkeys(switches, False), images=0, embeddings=0)
    fit(
        PromptCondensation(prompt_epochs=1, finetune_epochs=1), callbacks=[inspector], logger=logger
    )
    board = _board(Path(logger.log_dir))
    assert set(board.Tags()["images"]) == {"prompts/kept", "prompts/per_block"}
    assert board.Tags()["histograms"] == []
    assert set(_texts(board)) == {"run/condensed"}
    assert not any(tag.startswith(("attention", "prompt_")) for tag in board.Tags()["scalars"])
    assert not (Path(logger.log_dir) / "projector_config.pbtxt").exists()
