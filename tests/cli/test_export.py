"""`pcvpt export` of a run, and `pcvpt predict` with the file and with the run."""

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from miniature.images import write_noise
from pcvpt import load_exported

KINDS = ["exported_program", pytest.param("onnx", marks=pytest.mark.slow)]
SMALL = ("--data.num_workers=0", "--data.batch_size=100")


def _photos(folder: Path) -> Path:
    folder.mkdir()
    (folder / "more").mkdir()
    for number, name in enumerate(["a.png", "more/b.png", "c.png"]):
        write_noise(folder / name, number)
    return folder


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_exported_and_the_file_predicts(
    command: Any, refusal: Any, run: Path, work: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    ended = command("export", "runs/demo", "--to", kind, *SMALL)
    assert not ended.status, ended.output
    file = run / ("adapter.onnx" if kind == "onnx" else "adapter.pt2")
    metadata = load_exported(file).metadata
    assert metadata["images"] == "200"
    assert metadata["accuracy_torch"] == metadata["accuracy_exported"] in ended.output
    assert "exists" in refusal("export", "runs/demo", "--to", kind, *SMALL)

    photos = _photos(work / "photos")
    options = "--data.predict_images", photos, "--trainer.accelerator=cpu", *SMALL
    assert not command("predict", "runs/demo", *options, "--predictions=run.csv", "--top=2").status
    assert not command("predict", file, photos, "--predictions=file.csv", "--top=2").status
    of_run, of_file = _table(work / "run.csv"), _table(work / "file.csv")
    assert [row["class_1"] for row in of_run] == [row["class_1"] for row in of_file]
    for one, two in zip(of_run, of_file, strict=True):
        assert one.keys() == {"image", "class_1", "probability_1", "class_2", "probability_2"}
        for place in ("probability_1", "probability_2"):
            assert float(one[place]) == pytest.approx(float(two[place]), abs=1e-4)

    (work / "list.txt").write_text("photos/c.png\n\nphotos/a.png\n")
    names = [[row["image"] for row in of_file][n] for n in (1, 0)]
    command("predict", file, "list.txt", "--predictions=list.csv", "--probabilities")
    listed = _table(work / "list.csv")
    assert [Path(row["image"]).name for row in listed] == ["c.png", "a.png"]
    assert [Path(name).name for name in names] == ["c.png", "a.png"]
    for row in listed:
        shares = [float(v) for k, v in row.items() if k.startswith("probability of ")]
        assert len(shares) == 10
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert max(shares) == float(row["probability"])
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / 'a.png'}\n"))
    assert not command("predict", file, "-", "--predictions=in.csv").status
    assert len(_table(work / "in.csv")) == 1


def test_predictions_in_parquet(command: Any, run: Path, work: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    photos = _photos(work / "photos")
    options = "--data.predict_images", photos, "--trainer.accelerator=cpu", *SMALL
    assert not command("predict", "runs/demo", *options, "--predictions=out.parquet").status
    found = parquet.read_table("out.parquet").to_pylist()
    assert [Path(row["image"]).name for row in found] == ["a.png", "c.png", "b.png"]
    assert all(0 < row["probability"] <= 1 for row in found)


def test_bad_input_is_refused_before_anything_is_read(
    refusal: Any, run: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal("predict", "gone.onnx", "photos", "--predictions=x.csv")
    assert "gone.onnx: no such" in said
    assert "give at least 1" in refusal("predict", "gone.onnx", "photos", "--top=0")
    (work / "x.csv").touch()
    assert "x.csv exists" in refusal("predict", "gone.onnx", "photos", "--predictions=x.csv")
    to = "--to", "exported_program"
    (work / "list.txt").write_text("\n")
    assert "no images here" in refusal("export", "runs/demo", *to, "--images", "list.txt")
    (work / "folder").mkdir()
    assert "is a folder" in refusal("export", "runs/demo", *to, "--output=folder", "--overwrite")
    adapter = run / "adapter.safetensors"
    shutil.copy(adapter, run / "adapter_0.5.safetensors")
    said = refusal("export", "runs/demo", *to)
    assert "several budgets" in said
    assert "adapter_0.5.safetensors" in said
    for file in run.glob("adapter*"):
        file.unlink()
    assert "not finished" in refusal("export", "runs/demo", *to)
    assert not list(run.glob("*.pt2"))
