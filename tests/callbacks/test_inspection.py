from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcvpt import PromptCondensation
from pcvpt.callbacks import PhaseCheckpoint, PromptInspector

Fit = Callable[..., Any]


def _board(folder: Path) -> EventAccumulator:
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    board.Reload()
    return board


def test_the_board_shows_curves_scores_and_the_kept_prompts(fit: Fit, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    condense = PromptCondensation(prompt_epochs=2, finetune_epochs=2)
    _, module, watch = fit(condense, callbacks=[PromptInspector()], logger=logger)
    logger.experiment.flush()
    board = _board(Path(logger.log_dir))
    values = {tag: [e.value for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    for stage in "train", "val":
        for metric in "loss", "accuracy", "accuracy_per_class":
            assert len(values[f"{stage}/{metric}"]) == 4
    assert values["phase"] == [0, 0, 1, 1]
    assert [round(v, 6) for v in values["learning_rate"]] == [round(v, 6) for v in watch.rates]
    for name in "accuracy_before", "accuracy_masked", "accuracy_finetuned":
        assert abs(values[f"condense/{name}"][-1] - condense.report[name]) < 1e-4
    assert values["condense/seconds_condense"][-1] > 0
    histograms = sorted(board.Tags()["histograms"])
    assert histograms == [f"scores/block_{layer:02d}" for layer in range(6)]
    scores = module.model.prompts.scores
    for layer, tag in enumerate(histograms):
        (event,) = board.Histograms(tag)
        assert event.histogram_value.num == 4
        assert abs(event.histogram_value.sum - float(scores[layer].sum())) < 1e-6
    assert set(board.Tags()["images"]) == {"prompts/kept", "prompts/scores"}
    (kept,) = board.Images("prompts/kept")
    assert kept.encoded_image_string.startswith(b"\x89PNG")
    assert min(kept.width, kept.height) > 100


def test_the_board_of_several_budgets_has_curves_over_the_number_of_prompts(
    fit: Fit, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    condense = PromptCondensation([0.1, 0.5], prompt_epochs=1, finetune_epochs=1)
    fit(condense, callbacks=[PromptInspector()], logger=logger)
    logger.experiment.flush()
    board = _board(Path(logger.log_dir))
    for figure in "accuracy_masked", "accuracy_finetuned":
        points = [(e.step, e.value) for e in board.Scalars(f"condense/{figure}_by_prompts")]
        assert [step for step, _ in points] == [2, 12]
        for (_, value), entry in zip(points, condense.report["budgets"], strict=True):
            assert abs(value - entry[figure]) < 1e-4
    assert len(board.Histograms("scores/block_00")) == 1
    pictures = {"prompts/kept_0.1", "prompts/kept_0.5", "prompts/scores"}
    assert set(board.Tags()["images"]) == pictures


def test_a_board_begun_amid_fine_tuning_shows_the_budget_at_hand(fit: Fit, tmp_path: Path) -> None:
    def run(ckpt_path: Path | None = None) -> EventAccumulator:
        logger = TensorBoardLogger(tmp_path, name="board")
        condense = PromptCondensation([0.1, 0.5], prompt_epochs=1, finetune_epochs=2)
        callbacks = [PromptInspector(), PhaseCheckpoint()]
        fit(condense, callbacks=callbacks, logger=logger, ckpt_path=ckpt_path)
        logger.experiment.flush()
        return _board(Path(logger.log_dir))

    run()
    saved = tmp_path / "board" / "version_0" / "checkpoints" / "finetune_0.5-best.ckpt"
    board = run(saved)
    assert set(board.Tags()["images"]) == {"prompts/kept_0.5", "prompts/scores"}
    assert len(board.Histograms("scores/block_00")) == 1


def test_plain_prompt_tuning_shows_no_scores(fit: Fit, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="board")
    condense = PromptCondensation(keep=None, prompt_epochs=1)
    fit(condense, callbacks=[PromptInspector()], logger=logger)
    logger.experiment.flush()
    tags = _board(Path(logger.log_dir)).Tags()
    assert "val/accuracy" in tags["scalars"]
    assert not tags["images"]
    assert not tags["histograms"]


def test_other_loggers_are_left_alone(fit: Fit, tmp_path: Path) -> None:
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    fit(condense, callbacks=[PromptInspector()], logger=CSVLogger(tmp_path))
    (table,) = tmp_path.rglob("metrics.csv")
    assert "condense/accuracy_masked" in table.read_text()
