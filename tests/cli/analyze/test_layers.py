import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt.cli.analyze.main import main
from pcvpt.cli.analyze.trained_model import Subject, open_subject
from pcvpt.errors import UsageError


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "layers.csv").open() as text:
        return list(csv.DictReader(text))


def _accuracy(subject: Subject, split: str) -> float:
    with torch.no_grad():
        hits = [subject.model(x).argmax(1) == labels for x, labels in subject.batches(split, 75)]
    return 100 * float(torch.cat(hits).double().mean())


def test_accuracies_are_those_of_hand_masked_runs(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["layers", str(run), "--split", "test", "--images", "75"]) == 0
    assert {file.suffix for file in (run / "analysis").iterdir()} == {".csv", ".png", ".svg"}
    rows = _rows(run / "analysis")
    assert [int(row["prompts"]) for row in rows] == [20] * 6
    subject = open_subject(run, "prompt-last")
    keep = subject.model.prompts.keep.clone()
    assert float(rows[0]["accuracy_untouched"]) == pytest.approx(_accuracy(subject, "test"))
    for block in (0, 4):
        for column, mask in (
            ("accuracy_without", keep & (torch.arange(6) != block)[:, None]),
            ("accuracy_alone", keep & (torch.arange(6) == block)[:, None]),
        ):
            subject.model.prompts.apply_mask(list(mask))
            assert float(rows[block][column]) == pytest.approx(_accuracy(subject, "test"))
    said = capsys.readouterr().out
    assert "75 test images" in said


def test_a_checkpoint_and_an_adapter_say_what_each_block_keeps(run: Path, tmp_path: Path) -> None:
    kept = open_subject(run).model.prompts.counts()
    out = tmp_path / "out"
    tables = []
    for subject in (
        [str(run), "--checkpoint", "finetune-best"],
        [str(run / "adapter.safetensors")],
    ):
        main(["layers", *subject, "--images", "50", "--output", str(out), "--overwrite"])
        tables.append(_rows(out))
        assert [int(row["prompts"]) for row in tables[-1]] == kept
    assert tables[0] == tables[1]


def test_swin_is_measured_block_by_block(swin_run: Path) -> None:
    main(["layers", str(swin_run), "--images", "50"])
    assert [row["block"] for row in _rows(swin_run / "analysis")] == ["0", "1", "2", "3"]


def test_shallow_several_runs_and_an_adapter_alone_are_refused(
    fitted: Any, run: Path, tmp_path: Path
) -> None:
    shallow = fitted("shallow", "--config", "shallow.yaml")
    with pytest.raises(UsageError, match=r"shallow.*VPT-Shallow has prompts in front"):
        main(["layers", str(shallow)])
    with pytest.raises(UsageError, match="layers takes one RUN"):
        main(["layers", str(run), str(run)])
    alone = shutil.copy(run / "adapter.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(UsageError, match="an adapter has no images"):
        main(["layers", str(alone)])


def test_an_empty_split_is_refused(run: Path, tmp_path: Path, image_folder: Path) -> None:
    data = ["--data", "pcvpt.data.ImageFolderDataModule", f"--data.root={image_folder}"]
    with pytest.raises(UsageError, match="no test images; choose another by --split"):
        main(["layers", str(run), "--split", "test", *data])
    assert not list((run / "analysis").glob("*.csv"))
