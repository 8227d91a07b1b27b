"""``pcvpt data`` as a user types it, on miniature sets; rows are made to their sizes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from miniature import fgvc, lists
from pcvpt.cli import data as data_command
from pcvpt.data import TASKS, Task

from .conftest import Command

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Run:
    """Run ``pcvpt data`` in an empty folder; return its exit status and all that it printed."""
    rows: dict[str, Task] = {
        **TASKS,
        "dtd": lists.row("dtd"),
        "cars": replace(TASKS["cars"], num_classes=3, train=11, val=1, test=6),
    }
    monkeypatch.setattr(data_command, "TASKS", rows)
    monkeypatch.chdir(tmp_path)

    return lambda *arguments: command("data", *arguments)[:2]


@pytest.fixture
def dtd(tmp_path: Path) -> Path:
    return lists.write(lists.row("dtd"), tmp_path / "data" / "vtab-1k" / "dtd")


def test_the_list_has_all_tasks_and_what_is_on_disk(run: Run, dtd: Path) -> None:
    status, said = run("list")
    assert status == 0
    for task in TASKS:
        assert task in said
    (line,) = (line for line in said.splitlines() if " dtd " in line)
    assert line.split()[-2] == "lists"
    (line,) = (line for line in said.splitlines() if " svhn " in line)
    assert line.split()[-2] == "-"
    assert "26,032" in line
    assert "78.1" in line


def test_verify_passes_what_is_whole(run: Run, dtd: Path) -> None:
    status, said = run("verify", "dtd")
    assert status == 0
    assert "no problem found" in said


def test_verify_finds_a_test_image_among_those_of_train(run: Run, dtd: Path) -> None:
    image = dtd / "images" / "test" / "000001.jpg"
    (dtd / "images" / "train800" / "000002.jpg").write_bytes(image.read_bytes())
    status, said = run("verify", "dtd")
    assert status == 1
    assert "WRONG: " in said
    assert "test/000001.jpg" in said


def test_verify_goes_on_after_a_task_that_is_not_there(run: Run, dtd: Path) -> None:
    status, said = run("verify", "cars", "dtd")
    assert status == 1
    assert "no cars (Stanford Cars) here" in said
    assert "no problem found" in said


def test_verify_reads_originals_with_the_sum_of_train_and_val(run: Run, tmp_path: Path) -> None:
    fgvc.write_cars_devkit(tmp_path / "data" / "stanford_cars")
    status, said = run("verify", "cars")
    assert status == 0, said


def test_what_is_converted_is_the_same_and_has_a_record(run: Run, dtd: Path) -> None:
    status, said = run("convert", "dtd", "--to", "lists", "--target", "exact")
    assert status == 0
    assert "written to exact/dtd" in said
    record = json.loads(Path("exact/dtd/splits.json").read_text())
    assert record["task"] == "dtd"
    for image in sorted(dtd.rglob("*.jpg")):
        if "train800val200" not in image.parts:
            copy = Path("exact/dtd") / image.relative_to(dtd)
            assert copy.read_bytes() == image.read_bytes()
    assert run("verify", "dtd", "--root", "exact")[0] == 0
    status, said = run("convert", "dtd", "--to", "lists", "--target", "exact")
    assert status == 2
    assert "pcvpt: error: " in said


def test_one_flipped_byte_is_found(run: Run, dtd: Path) -> None:
    run("convert", "dtd", "--to", "lists", "--target", "exact")
    image = Path("exact/dtd/images/test/000000.jpg")
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    status, said = run("verify", "dtd", "--root", "exact")
    assert status == 1
    assert "000000.jpg" in said


def test_a_swapped_label_file_is_found(run: Run, dtd: Path) -> None:
    run("convert", "dtd", "--to", "lists", "--target", "exact")
    first, second = Path("exact/dtd/val200.txt"), Path("exact/dtd/test.txt")
    texts = first.read_text(), second.read_text()
    first.write_text(texts[1])
    second.write_text(texts[0])
    assert run("verify", "dtd", "--root", "exact")[0] == 1


def test_a_sheet_is_drawn_once(run: Run, dtd: Path) -> None:
    arguments = "show", "dtd", "--images", "3", "--backbone", "vit_demo_patch8_32"
    status, said = run(*arguments)
    assert status == 0
    assert "resized to 32x32, aspect not kept, tf1" in said
    with Image.open("dtd.png") as sheet:
        assert sheet.width > 100
    status, said = run(*arguments)
    assert status == 2
    assert "dtd.png exists" in said


def test_a_plan_fetches_nothing(run: Run, tmp_path: Path) -> None:
    status, said = run("get", "dtd", "cars", "--plan")
    assert status == 0
    assert "Download https://www.robots.ox.ac.uk/~vgg/data/dtd/" in said
    assert "1. " in said
    assert not list(tmp_path.iterdir())


def test_what_has_to_be_done_by_hand_is_told(run: Run) -> None:
    status, said = run("get", "nabirds")
    assert status == 1
    assert "pcvpt data verify nabirds --root data" in said


def test_get_goes_on_where_one_task_fails_and_leaves_what_is_there(run: Run, dtd: Path) -> None:
    (dtd.parents[1] / "svhn").mkdir()
    before = sorted(dtd.rglob("*"))
    status, said = run("get", "dtd", "svhn", "nabirds")
    assert status == 1
    assert "dtd is there already: lists in data/vtab-1k/dtd; nothing was done" in said
    assert "svhn: data/svhn: exists" in said
    assert "pcvpt data verify nabirds" in said
    assert sorted(dtd.rglob("*")) == before


def test_groups_stand_for_their_tasks(run: Run) -> None:
    assert run("get", "fgvc", "--plan")[1].count("Licence: ") == 5
    assert run("get", "all", "dtd", "--plan")[1].count("Licence: ") == 24


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "carss"], "no task 'carss'"),
        (["verify"], "TASK"),
        (["convert", "dtd", "--to", "tars", "--target", "x"], "'tars'"),
        (["show", "cars", "dtd", "--output", "a.png"], "--output names one file"),
        (["show", "dtd", "--backbone", "vit_huge"], "vit_huge"),
        (["verify", "dtd", "--jobs", "0"], "jobs is 0"),
    ],
)
def test_a_mistake_in_the_command_is_named(
    run: Run, dtd: Path, arguments: list[str], said: str
) -> None:
    status, output = run(*arguments)
    assert status == 2
    assert said in output


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    status, said = run()
    assert status == 0
    assert "pcvpt data get cars dtd" in said
