"""The TensorBoard page of a run in miniature."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
import torch
from factories import LAYERS, PROMPTS, STEPS, Run
from google.protobuf import text_format
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from pcvpt import UsageError
from pcvpt.callbacks import PhaseCheckpoint, PromptInspector


class Page:
    """All that a run has written to TensorBoard."""

    def __init__(self, folder: Path) -> None:
        sizes = dict.fromkeys(("scalars", "histograms", "images", "tensors"), 0)
        self.folder, self.events = folder, EventAccumulator(str(folder), size_guidance=sizes)
        self.events.Reload()
        self.tags = self.events.Tags()
        self.scalars = {
            t: [(e.step, e.value) for e in self.events.Scalars(t)] for t in self.tags["scalars"]
        }
        self.images = {
            t: [_pixels(e.encoded_image_string) for e in self.events.Images(t)]
            for t in self.tags["images"]
        }
        self.texts: dict[str, str] = {}
        for tag in (tag for tag in self.tags["tensors"] if tag.endswith("/text_summary")):
            (event,) = self.events.Tensors(tag)
            text = event.tensor_proto.string_val[0].decode()
            self.texts[tag.removesuffix("/text_summary")] = text

    def plugin(self, tag: str) -> Any:
        content = self.events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)


def _pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


class Gradients(Callback):
    """Remembers the norms of the gradients of each step."""

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        (values,) = pl_module.model.prompts.parameters()
        self.norms.append(values.grad.flatten(1).norm(dim=1))


def _fit(folder: Path, condense: Any, *callbacks: Any, **options: Any) -> tuple[Run, Page]:
    logger = TensorBoardLogger(folder, name="board")
    run = factories.fit(folder, condense, callbacks=callbacks, logger=logger, **options)
    return run, Page(Path(run.trainer.log_dir))


TWO = {"keep": [0.1, 0.5], "score": "gate_batch"}


def _blocks(name: str) -> set[str]:
    return {f"{name}/block_{block:02d}" for block in range(LAYERS)}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Page, Gradients]:
    gradients, condense = Gradients(), {"prompt_epochs": 2, "finetune_epochs": 2}
    folder, inspector = tmp_path_factory.mktemp("one"), PromptInspector(embeddings=2)
    return *_fit(folder, condense, inspector, gradients), gradients


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Page]:
    return _fit(tmp_path_factory.mktemp("two"), TWO, PromptInspector(), PhaseCheckpoint(), seed=5)


def test_curves_share_one_axis_of_steps_over_both_phases(one: Any) -> None:
    run, page, gradients = one
    scalars = page.scalars
    values = {tag: [value for _, value in points] for tag, points in scalars.items()}
    for split in "train", "val":
        for metric in "loss", "accuracy", "accuracy_per_class":
            assert len(values[f"{split}/{metric}"]) == 4
    assert values["phase"] == [0, 0, 1, 1]
    assert values["learning_rate"] == pytest.approx(run.watch.rates)
    ends = [STEPS * epochs - 1 for epochs in (1, 2, 3, 4)]
    for tag in "phase", "val/accuracy", "attention/block_00", "prompt_gradient/block_00":
        assert [step for step, _ in scalars[tag]] == ends
    assert _blocks("attention") | _blocks("prompt_norm") | _blocks("prompt_gradient") <= {*scalars}
    norms = torch.stack(gradients.norms).view(4, STEPS, LAYERS).mean(1)
    bank = run.module.model.prompts
    for block in range(LAYERS):
        found = torch.tensor(values[f"prompt_gradient/block_{block:02d}"][:2])
        torch.testing.assert_close(found, norms[:2, block])
        assert all(0 < share < 1 for share in values[f"attention/block_{block:02d}"][:2])
        if bank.count(block):
            kept = bank.layer_values(block)[bank.keep[block]].detach()
            expected = float(kept.norm(dim=1).mean())
            assert values[f"prompt_norm/block_{block:02d}"][-1] == pytest.approx(expected, rel=1e-5)


def test_scores_and_kept_prompts_are_those_of_the_run(one: Any) -> None:
    run, page, _ = one
    scalars, report = page.scalars, run.report
    assert [value for _, value in scalars["prompts/kept_per_block"]] == report["kept"]
    for name in "accuracy_before", "accuracy_masked", "accuracy_finetuned", "score_agreement":
        assert scalars[f"condense/{name}"][-1][1] == pytest.approx(report[name], rel=1e-5)
    assert set(page.tags["histograms"]) == _blocks("scores")
    for layer, scores in enumerate(run.module.model.prompts.scores):
        (event,) = page.events.Histograms(f"scores/block_{layer:02d}")
        assert event.histogram_value.num == PROMPTS
        assert abs(event.histogram_value.sum - float(scores.sum())) < 1e-6


def test_every_figure_shows_something_and_maps_change_by_condensing(one: Any, two: Any) -> None:
    of_model = dict.fromkeys(("prompts/attention", "prompts/similarity"), 2)
    for page, kept in (
        (one[1], ["prompts/kept"]),
        (two[1], ["prompts/kept_0.1", "prompts/kept_0.5"]),
    ):
        images = page.images
        of_masks = dict.fromkeys((*kept, "prompts/scores"), 1)
        assert {tag: len(found) for tag, found in images.items()} == {**of_masks, **of_model}
        for image in (image for found in images.values() for image in found):
            assert image.ndim == 3
            assert min(image.shape[:2]) > 100
            assert image.std() > 8
            assert (np.abs(image.astype(int) - 255).max(axis=2) > 30).mean() > 0.02
        for tag in "prompts/attention", "prompts/similarity":
            assert not np.array_equal(*images[tag])


def test_the_page_of_a_merge_maps_which_prompts_became_one(tmp_path: Path) -> None:
    run, page = _fit(tmp_path, {"method": "merge"}, PromptInspector())
    maps = {tag for tag in page.images if tag.startswith("prompts/")}
    others = {"prompts/attention", "prompts/scores", "prompts/similarity"}
    assert maps == {"prompts/merged", *others}
    kept = [value for _, value in page.scalars["prompts/kept_per_block"]]
    assert kept == run.report["kept"] == run.module.model.prompts.counts()


def test_features_have_labels_and_thumbnails_before_and_after_condensing(one: Any) -> None:
    run, page, _ = one
    config, points = ProjectorConfig(), []
    text_format.Parse((page.folder / "projector_config.pbtxt").read_text(), config)
    entries = {entry.tensor_name: entry for entry in config.embeddings}
    assert set(entries) == {"features of test, all prompts", "features of test, condensed"}
    for entry in entries.values():
        points.append(np.loadtxt(page.folder / entry.tensor_path, delimiter="\t"))
        rows = (page.folder / entry.metadata_path).read_text().splitlines()
        assert rows[0].split("\t") == ["class", "number", "predicted", "prediction"]
        assert [row.split("\t")[:2] for row in rows[1:]] == [["round", "0"], ["tall", "3"]]
        with Image.open(page.folder / entry.sprite.image_path) as sheet:
            assert sheet.size == (64, 64)  # two of 32 pixels, in a square
            assert np.asarray(sheet)[:32].std() > 8
        assert list(entry.sprite.single_image_dim) == [32, 32]
    assert points[0].shape == points[1].shape == (2, run.module.model.num_features)
    assert not np.allclose(*points)


def test_the_projector_has_no_more_images_than_asked_for(tmp_path: Path) -> None:
    page = _fit(tmp_path, {"keep": None}, PromptInspector(embeddings=1))[1]
    (points,) = page.folder.glob("projector/*/tensors.tsv")
    assert len(np.loadtxt(points, delimiter="\t", ndmin=2)) == 1


def test_the_table_of_runs_has_settings_and_figures_of_both_phases(two: Any) -> None:
    page = two[1]
    assert {path.parent for path in page.folder.rglob("*tfevents*")} == {page.folder}
    start = page.plugin("session_start_info").session_start_info.hparams
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    expected = {"backbone": "vit_demo_patch8_32", "keep": "0.1, 0.5", "mode": "deep"}
    expected |= {"num_prompts": 4, "score": "gate_batch", "scope": "global", "seed": 5}
    expected |= {"prompt_lr": 0.5, "finetune_lr": 0.5, "global_batch": 8, "data": "TinyData"}
    expected |= {"prompt_epochs": 1, "finetune_epochs": 1}
    assert expected.items() <= settings.items()
    tags = {metric.name.tag for metric in page.plugin("experiment").experiment.metric_infos}
    names = [f"accuracy_{what}_{b}" for what in ("masked", "finetuned") for b in (0.1, 0.5)]
    assert tags == {f"condense/{name}" for name in (*names, "accuracy_before", "score_agreement")}


def test_several_budgets_have_curves_over_the_number_of_prompts(two: Any) -> None:
    run, page = two
    scalars, entries = page.scalars, run.report["budgets"]
    for figure in "accuracy_masked", "accuracy_finetuned":
        points = scalars[f"condense/{figure}_by_prompts"]
        assert points == [(e["prompts_kept"], pytest.approx(e[figure], rel=1e-5)) for e in entries]
        for entry in entries:
            tag = f"condense/{figure}_{entry['keep']}"
            assert scalars[tag][-1][1] == pytest.approx(entry[figure], rel=1e-5)
    for entry in entries:
        assert scalars[f"prompts/kept_per_block_{entry['keep']}"] == list(enumerate(entry["kept"]))
    assert len(page.events.Histograms("scores/block_00")) == 1


def test_the_page_of_custom_scalars_names_curves_that_exist(two: Any) -> None:
    _, page = two
    (event,) = page.events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    charts = [chart for category in layout.category for chart in category.chart]
    for pattern in (pattern for chart in charts for pattern in chart.multiline.tag):
        assert any(re.search(pattern, tag) for tag in page.tags["scalars"]), pattern


def test_a_page_begun_within_fine_tuning_shows_the_present_budget(two: Any, tmp_path: Path) -> None:
    saved = two[1].folder / "checkpoints" / "finetune_0.1-best.ckpt"
    _, page = _fit(tmp_path, TWO, PromptInspector(embeddings=0), ckpt_path=saved)
    assert {tag for tag in page.tags["images"] if "kept" in tag} == {"prompts/kept_0.1"}
    assert len(page.events.Histograms("scores/block_00")) == 1


def test_a_negative_number_of_images_is_refused() -> None:
    with pytest.raises(UsageError, match=r"PromptInspector\.embeddings=-1"):
        PromptInspector(embeddings=-1)


def test_each_part_can_be_left_out(tmp_path: Path) -> None:
    switches = ("scores", "attention", "similarity", "norms", "hparams")
    inspector = PromptInspector(**dict.fromkeys(switches, False), embeddings=0)
    _, page = _fit(tmp_path, None, inspector)
    assert set(page.tags["images"]) == {"prompts/kept"}
    assert page.tags["histograms"] == []
    assert not any(tag.startswith(("attention", "prompt_")) for tag in page.tags["scalars"])
    assert not (page.folder / "projector_config.pbtxt").exists()


def test_matplotlib_may_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pcvpt.callbacks.tensorboard.figures", None)
    with pytest.warns(UserWarning, match="No figures on the board"):
        run, page = _fit(tmp_path, None, PromptInspector())
    assert page.tags["images"] == []
    assert "attention/block_00" in page.tags["scalars"]
    assert json.dumps(run.report)
