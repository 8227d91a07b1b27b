from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcvpt.analysis.attention import rollout
from pcvpt.analysis.forward_pass import attention_to_prompts
from pcvpt.cli.analyze.images import images_of_files, images_of_split
from pcvpt.cli.analyze.trained_model import open_model

DRAWN = ("attention_mass", "attention_maps", "attention_rollout")


def test_a_run_gives_tables_maps_and_rollouts(
    run: Path, analyze: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = analyze("attention", run, "--sample", 10, "--show", 1, "--top", 2)
    figures = {f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")}
    assert found.files() == figures | {"attention.csv", "attention_images.csv"}
    for name in DRAWN:
        assert np.asarray(Image.open(found.folder / f"{name}.png").convert("L")).std() > 10
    trained = open_model(run)
    model, sample = trained.model, images_of_split(trained, "val", 10)
    received, traced = attention_to_prompts(model, sample.images), rollout(model, sample.images)
    rows = found.rows("attention.csv")
    assert len(rows) == 36
    for row in rows:
        place = int(row["block"]), int(row["prompt"])
        assert model.prompts.keep[place]
        assert float(row["attention_received"]) == pytest.approx(float(received[place]), rel=1e-5)
        share = float(traced.prompts.mean(0)[place])
        assert float(row["rollout_share"]) == pytest.approx(share, rel=1e-5)
        assert float(row["score"]) == pytest.approx(float(model.prompts.scores[place]))
    with torch.no_grad():
        guesses = model(sample.images).argmax(1).tolist()
    names = trained.data.class_names
    images = found.rows("attention_images.csv")
    assert [row["predicted"] for row in images] == [names[guess] for guess in guesses]
    assert [row["label"] for row in images] == list(names)
    assert "class token" in capsys.readouterr().out


def test_merged_prompts_have_no_scores_but_those_before_the_merge_have(
    fitted: Any, analyze: Any
) -> None:
    run = fitted("merged", "--condense.method=merge")
    found = analyze("attention", run, "--sample", 3, "--show", 1, "--top", 1)
    rows, bank = found.rows("attention.csv"), open_model(run).model.prompts
    assert [row["block"] for row in rows] == [
        str(block) for block, count in enumerate(bank.counts()) for _ in range(count)
    ]
    assert "score" not in rows[0]
    before = open_model(run, "prompt-last")
    assert torch.equal(before.scores(), bank.scores)
    assert bool(bank.scores.isfinite().all())


@pytest.mark.slow
def test_the_users_own_images_are_prepared_as_in_the_run(
    run: Path, image_folder: Path, analyze: Any
) -> None:
    found = analyze("attention", run, "--images", image_folder, "--show", 1, "--top", 1)
    rows = found.rows("attention_images.csv")
    assert len(rows) == 20
    assert list(rows[0]) == ["image", "predicted", "rollout_share_of_prompts"]  # no label is known
    assert rows[0]["image"] == "0.png"
    trained, file = open_model(run), image_folder / "train" / "class_0" / "0.png"
    sample = images_of_files(trained, file)
    share = float(rollout(trained.model, sample.images).prompts.sum())
    assert float(rows[0]["rollout_share_of_prompts"]) == pytest.approx(share, rel=1e-5)
    pixels = sample.preprocessing.unnormalized(sample.images[:1])
    assert pixels.shape == (1, 3, 32, 32)
    with Image.open(file) as image:
        small = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0) * 255, small, atol=1)


def test_an_adapter_alone_knows_how_to_prepare_images(
    adapter: Path, image_folder: Path, analyze: Any
) -> None:
    file = image_folder / "train" / "class_3" / "3.png"
    found = analyze("attention", adapter, "--images", file, "--top", 1)
    (row,) = found.rows("attention_images.csv")
    assert row["image"] == "3.png"
    assert not row["predicted"].isdecimal()  # the name of a class
    assert "score" not in found.rows("attention.csv")[0]


@pytest.mark.slow
def test_swin_has_no_maps(swin_run: Path, analyze: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = analyze("attention", swin_run, "--sample", 4)
    assert found.files() == {"attention.csv", "attention_mass.png", "attention_mass.svg"}
    assert "rollout_share" not in found.rows("attention.csv")[0]
    assert "no maps and no rollouts" in capsys.readouterr().out


@pytest.mark.slow
def test_in_shallow_a_prompt_has_a_row_in_each_block(fitted: Any, analyze: Any) -> None:
    shallow = fitted("shallow", "--config", "shallow.yaml")
    rows = analyze("attention", shallow, "--sample", 3).rows("attention.csv")
    kept = open_model(shallow).model.prompts.counts()[0]
    assert len(rows) == 6 * kept
    assert all((row["rollout_share"] != "") == (row["block"] == "0") for row in rows)
