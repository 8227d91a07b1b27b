import csv
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import TestsOnVal, make_trainer, make_tuner

from miniature.images import write_noise
from pcvpt import UsageError
from pcvpt.callbacks import PredictionWriter, PromptFreezer
from pcvpt.runs.atomic import write_text


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
    assert module.model.prompts.frozen == bool(callbacks)
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


class Unread(TestsOnVal):
    """Images that must not be read yet."""

    def prepare_data(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("name", ["folder", "file/table.csv", "x" * 300])
def test_a_table_that_cannot_be_written_is_refused_before_images_are_read(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    trainer = make_trainer(tmp_path, [PredictionWriter(str(tmp_path / name))])
    with pytest.raises(UsageError, match=name):
        trainer.predict(make_tuner(), datamodule=Unread())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_image_whose_name_is_not_utf_8_has_a_row(tmp_path: Path) -> None:
    name = tmp_path / "photos" / "n\udcff.png"
    name.parent.mkdir()
    try:
        write_noise(name, 0)
    except OSError:
        pytest.skip("this system has no such names")
    trainer = make_trainer(tmp_path, [PredictionWriter(str(tmp_path / "t\udcff.csv"))])
    trainer.predict(make_tuner(), datamodule=TestsOnVal(predict_images=str(name.parent)))
    rows = (tmp_path / "t\udcff.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1].startswith(f"{tmp_path}/photos/n\\xff.png,")


def test_names_and_bytes_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    write_text(tmp_path / "table.csv", os.fsdecode(b"caf\xe9, caf\xc3\xa9"))
    assert (tmp_path / "table.csv").read_bytes() == b"caf\xe9, caf\xc3\xa9"
