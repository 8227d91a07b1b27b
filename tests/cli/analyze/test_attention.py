import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcvpt.analysis.attention import rollout
from pcvpt.analysis.forward_pass import attention_to_prompts
from pcvpt.cli.analyze.images import of_files, of_split
from pcvpt.cli.analyze.main import main
from pcvpt.cli.analyze.trained_model import open_subject
from pcvpt.errors import UsageError

Capture = pytest.CaptureFixture[str]
DRAWN = ("attention_mass", "attention_maps", "attention_rollout")


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open() as text:
        return list(csv.DictReader(text))


def test_a_run_gives_masses_maps_and_rollouts(run: Path, capsys: Capture) -> None:
    main(["attention", str(run), "--sample", "12", "--show", "2", "--top", "2"])
    folder = run / "analysis"
    figures = {f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")}
    tables = {"attention.csv", "attention_images.csv"}
    assert {file.name for file in folder.iterdir()} == figures | tables
    for name in DRAWN:
        assert np.asarray(Image.open(folder / f"{name}.png").convert("L")).std() > 10
    subject = open_subject(run)
    sample = of_split(subject, "val", 12)
    mass, traced = (
        attention_to_prompts(subject.model, sample.images),
        rollout(subject.model, sample.images),
    )
    rows = _rows(folder / "attention.csv")
    assert len(rows) == 36
    for row in rows:
        place = int(row["block"]), int(row["prompt"])
        assert subject.model.prompts.keep[place]
        assert float(row["attention_received"]) == pytest.approx(float(mass[place]), rel=1e-5)
        share = float(traced.prompts.mean(0)[place])
        assert float(row["rollout_share"]) == pytest.approx(share, rel=1e-5)
        assert float(row["score"]) == pytest.approx(float(subject.model.prompts.scores[place]))
    with torch.no_grad():
        guesses = subject.model(sample.images).argmax(1).tolist()
    images = _rows(folder / "attention_images.csv")
    assert [row["predicted"] for row in images] == [subject.data.class_names[g] for g in guesses]
    assert [row["label"] for row in images][:10] == list(subject.data.class_names)
    said = capsys.readouterr().out
    assert "class token" in said


def test_ones_own_images_are_prepared_as_in_the_run(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    main(["attention", str(run), "--images", str(image_folder), "--output", str(out)])
    rows = _rows(out / "attention_images.csv")
    assert len(rows) == 20
    assert list(rows[0]) == ["image", "predicted", "rollout_share_of_prompts"]  # no label is known
    assert rows[0]["image"] == "0.png"
    subject = open_subject(run)
    sample = of_files(subject, image_folder / "train" / "class_0" / "0.png")
    traced = rollout(subject.model, sample.images).prompts.sum()
    assert float(rows[0]["rollout_share_of_prompts"]) == pytest.approx(float(traced), rel=1e-5)
    pictures = sample.pictures(1)
    assert pictures.shape == (1, 3, 32, 32)
    with Image.open(image_folder / "train" / "class_0" / "0.png") as image:
        small = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(pictures[0].permute(1, 2, 0) * 255, small, atol=1)


def test_an_adapter_alone_knows_how_to_prepare_images(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    alone = Path(shutil.copy(run / "adapter.safetensors", tmp_path / "alone.safetensors"))
    file = image_folder / "train" / "class_3" / "3.png"
    main(["attention", str(alone), "--images", str(file)])
    (row,) = _rows(tmp_path / "alone" / "attention_images.csv")
    assert row["image"] == "3.png"
    assert row["predicted"] in open_subject(run).data.class_names
    assert "score" not in _rows(tmp_path / "alone" / "attention.csv")[0]
    with pytest.raises(UsageError, match="an adapter has no images"):
        main(["attention", str(alone)])


def test_of_swin_there_is_the_mass_alone(swin_run: Path, capsys: Capture) -> None:
    main(["attention", str(swin_run), "--sample", "4"])
    names = {file.name for file in (swin_run / "analysis").iterdir()}
    assert names == {"attention.csv", "attention_mass.png", "attention_mass.svg"}
    rows = _rows(swin_run / "analysis" / "attention.csv")
    assert "rollout_share" not in rows[0]
    assert "Swin: no maps and no rollouts" in capsys.readouterr().out


def test_in_shallow_a_prompt_has_a_row_in_each_block(fitted: Any, tmp_path: Path) -> None:
    shallow, out = fitted("shallow", "--config", "shallow.yaml"), tmp_path / "out"
    main(["attention", str(shallow), "--sample", "3", "--output", str(out)])
    rows = _rows(out / "attention.csv")
    kept = open_subject(shallow).model.prompts.counts()[0]
    assert len(rows) == 6 * kept
    assert all((row["rollout_share"] != "") == (row["block"] == "0") for row in rows)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--show", "0"], "--show 0; give at least 1"),
        (["--top", "-1"], "--top -1; give at least 1"),
        (["--sample", "0"], "give at least 1"),
        (["--images", "nowhere"], "nowhere"),
        (["--images", "."], "no images here"),
        (["--images", "text.png"], r"text\.png"),
    ],
)
def test_wrong_options_end_before_anything_is_written(
    run: Path, options: list[str], fault: str
) -> None:
    if "text.png" in options:
        Path("text.png").write_text("no image")
    with pytest.raises(UsageError, match=fault):
        main(["attention", str(run), *options])
    assert not (run / "analysis").exists()
