"""What all analyses have in common: their help, and what they refuse."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcvpt import create_model, save_adapter
from pcvpt.cli.analyze.main import ANALYSES, main
from pcvpt.cli.analyze.results import Results
from pcvpt.errors import UsageError


def test_help_needs_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; from pcvpt.cli.analyze.main import main\n"
        "try: main(['--help'])\n"
        "finally: print(sorted({'torch', 'matplotlib', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in ANALYSES)


@pytest.mark.parametrize("name", ANALYSES)
def test_each_analysis_explains_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--output" in text
    assert "prompt" in text


@pytest.mark.parametrize(
    ("name", "mode", "prompts", "message"),
    [
        ("scores", "linear", 0, "a linear probe has no prompts"),
        ("layers", "shallow", 2, "VPT-Shallow"),
    ],
)
def test_a_model_without_such_prompts_is_refused(
    name: str, mode: str, prompts: int, message: str, tmp_path: Path
) -> None:
    file = tmp_path / f"{mode}.safetensors"
    save_adapter(create_model("vit_demo_patch8_32", 10, prompts, mode=mode), file)
    with pytest.raises(UsageError, match=rf"{mode}\.safetensors.*{message}"):
        main([name, str(file)])


@pytest.mark.parametrize("name", ["layers", "attention"])
def test_analyses_of_one_run_refuse_several(name: str) -> None:
    with pytest.raises(UsageError, match="takes one RUN"):
        main([name, "a", "b"])


@pytest.mark.parametrize("name", ["spectrum", "layers", "attention", "scores"])
def test_an_adapter_alone_has_no_images(name: str, adapter: Path) -> None:
    with pytest.raises(UsageError, match="an adapter has no images"):
        main([name, str(adapter)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spectrum", "--share", "0"], "share=0"),
        (["spectrum", "--images", "0"], "--images 0; give at least 1"),
        (["spectrum", "--prompts", "21"], "keeps at most 20"),
        (["spectrum", "--prompts", "-1"], "--prompts -1; give at least 0"),
        (["spectrum", "--checkpoint", "other"], "no such checkpoint"),
        (["spectrum", "--device", "other"], "--device other"),
        (["attention", "--show", "0"], "--show 0; give at least 1"),
        (["attention", "--top", "-1"], "--top -1"),
        (["attention", "--sample", "0"], "--sample 0"),
        (["attention", "--images", "nowhere"], "nowhere"),
        (["attention", "--images", "."], "no images here"),
        (["attention", "--images", "text.png"], r"text\.png"),
        (["scores", "--keep", "0"], "keep=0.0; give the fraction"),
        (["scores", "--images", "0"], "--images 0; give at least 1"),
        (["scores", "--exact_images", "-1"], "--exact_images -1; give at least 0"),
        (["scores", "--draws", "0"], "--draws 0; give at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_options_end_before_anything_is_written(
    run: Path, tmp_path: Path, monkeypatch: Any, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if "text.png" in arguments:
        Path("text.png").write_text("no image")
    with pytest.raises(UsageError, match=message):
        main([arguments[0], str(run), *arguments[1:]])
    assert not (run / "analysis").exists()


@pytest.mark.slow
def test_runs_of_keys_and_values_are_analysed(fitted: Any, analyze: Any) -> None:
    run = fitted("own", "--config", "prefix.yaml")
    found = analyze("attention", run, "--sample", 3, "--show", 1, "--top", 2)
    assert {"attention_maps.png", "attention_rollout.png"} < found.files()
    assert len(found.rows("attention.csv")) == 36
    layers = analyze("layers", run, "--images", 25).rows("layers.csv")
    assert [int(row["prompts"]) for row in layers] == [20] * 6
    scores = ("--images", 25, "--draws", 1, "--keep", 0.3, "--exact_images", 0)
    rows = analyze("scores", run, *scores).rows("scores.csv")
    assert {"gate", "merge"} < {row["method"] for row in rows}
    with pytest.raises(UsageError, match=r"version_0: .*keys and values have no queries"):
        main(["spectrum", str(run)])


def test_an_earlier_analysis_is_not_replaced_unasked(tmp_path: Path) -> None:
    Results(tmp_path, "layers").write_table([{"block": 0}, {"block": 1, "prompts": 2}])
    assert (tmp_path / "layers.csv").read_text() == "block,prompts\n0,\n1,2\n"
    with pytest.raises(UsageError, match=r"layers\.csv exists; --overwrite"):
        Results(tmp_path, "layers")
    Results(tmp_path, "layers", overwrite=True)


@pytest.mark.parametrize("name", ["layers", "scores"])
def test_a_split_without_images_is_refused(
    name: str, run: Path, image_folder: Path, tmp_path: Path
) -> None:
    folders = sorted((image_folder / "train").iterdir())
    for folder, known in zip(folders, ("Bag", "Coat", "Dress"), strict=False):
        shutil.copytree(folder, tmp_path / "train" / known)
    data = ["--data", "pcvpt.data.ImageFolderDataModule", f"--data.root={tmp_path}"]
    with pytest.raises(UsageError, match="no test images; choose another by --split"):
        main([name, str(run), "--split", "test", *data])
