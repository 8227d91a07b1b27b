import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcvpt.callbacks import PredictionWriter, PromptFreezer
from pcvpt.data import eval_transform


def test_each_image_has_a_row_with_its_most_probable_class(
    trainer: Callable[..., Any], tuner: Callable[..., Any], task: Callable[..., Any], tmp_path: Path
) -> None:
    module, data = tuner(), task(batch_size=2)
    data.splits  # noqa: B018
    object.__setattr__(data.splits, "test", data.splits.val)
    path = tmp_path / "deep" / "table.csv"
    for _ in range(2):  # a second start overwrites
        trainer([PredictionWriter(str(path))]).predict(module, datamodule=data)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "class", "probability"]
    transform = eval_transform(module.input_spec, "crop")
    images = torch.stack([transform(Image.fromarray(i.source)) for i in data.splits.val])
    probabilities = module.model.eval()(images).detach().softmax(1)
    assert [row[0] for row in rows] == [str(number) for number in range(13)]
    assert [row[1] for row in rows] == [data.class_names[k] for k in probabilities.argmax(1)]
    assert [float(row[2]) for row in rows] == pytest.approx(
        probabilities.amax(1).tolist(), abs=2e-6
    )


def test_frozen_prompts_predict_the_same(
    trainer: Callable[..., Any], tuner: Callable[..., Any], task: Callable[..., Any], tmp_path: Path
) -> None:
    module, data = tuner(), task(batch_size=2)
    data.splits  # noqa: B018
    object.__setattr__(data.splits, "test", data.splits.val)
    tables = []
    for name, callbacks in (("before", []), ("frozen", [PromptFreezer()])):
        path = tmp_path / name
        trainer([*callbacks, PredictionWriter(str(path))]).predict(module, datamodule=data)
        with path.open(newline="") as file:
            tables.append([row[:2] for row in csv.reader(file)])
    assert module.model.frozen
    assert tables[0] == tables[1]
