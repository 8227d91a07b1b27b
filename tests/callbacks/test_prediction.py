import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import TestsOnVal, make_trainer, make_tuner

from pcvpt.callbacks import PredictionWriter, PromptFreezer


def _predict(path: Path, *callbacks: Any, **options: Any) -> list[list[str]]:
    module, data = make_tuner(), TestsOnVal(batch_size=2)
    trainer = make_trainer(path.parent, [*callbacks, PredictionWriter(str(path))])
    predicted = torch.cat(trainer.predict(module, datamodule=data, **options))
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "class", "probability"]
    assert [row[0] for row in rows] == [str(number) for number in range(13)]
    assert [row[1] for row in rows] == [data.class_names[k] for k in predicted.argmax(1)]
    assert [float(row[2]) for row in rows] == pytest.approx(predicted.amax(1).tolist(), abs=1e-6)
    assert module.model.frozen == bool(callbacks)
    return rows


def test_each_image_has_a_row_and_frozen_prompts_predict_the_same(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.csv"
    path.parent.mkdir()
    path.write_text("of an earlier start")
    torch.manual_seed(0)
    rows = _predict(path)
    torch.manual_seed(0)
    frozen = _predict(tmp_path / "frozen.csv", PromptFreezer())
    assert [row[:2] for row in rows] == [row[:2] for row in frozen]
    assert list(path.parent.iterdir()) == [path]
