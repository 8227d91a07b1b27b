"""``pcvpt data`` as a user types it, on miniature sets; rows are made to their sizes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from miniature import fgvc, lists
from pcvpt.cli import data as data_command
from pcvpt.data import TASKS

from .conftest import Command

Run = Callable[..., tuple[int, str]]
CONVERT = "convert dtd --to lists --target exact"


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Run:
    """Run ``pcvpt data`` in an empty folder; return its exit status and all that it printed."""
    cars = replace(TASKS["cars"], num_classes=3, train=11, val=1, test=6)
    monkeypatch.setattr(data_command, "TASKS", {**TASKS, "dtd": lists.row("dtd"), "cars": cars})
    return lambda arguments: command("data", *arguments.split())[:2]


@pytest.fixture
def dtd(work: Path) -> Path:
    return lists.write(lists.row("dtd"), work / "data" / "vtab-1k" / "dtd")


def test_the_list_has_all_tasks_and_what_is_on_disk(run: Run, dtd: Path) -> None:
    status, said = run("list")
    assert status == 0
    rows = {name: next(line for line in said.splitlines() if f" {name} " in line) for name in TASKS}
    assert rows["dtd"].split()[-2] == "lists"
    assert rows["svhn"].split()[-2] == "-"
    for figure in "26,032", "78.1":
        assert figure in rows["svhn"]


@pytest.mark.parametrize(
    ("tasks", "status", "named"),
    [
        ("dtd", 0, ["no problem found"]),
        ("cars", 0, []),  # originals have only the sum of train and val
        ("svhn dtd", 1, ["no svhn", "no problem found"]),
    ],
)
def test_verify_passes_what_is_complete_and_names_what_is_missing(
    tasks: str, status: int, named: list[str], run: Run, dtd: Path, work: Path
) -> None:
    fgvc.write_cars_devkit(work / "data" / "stanford_cars")
    found, said = run(f"verify {tasks}")
    assert found == status, said
    for text in named:
        assert text in said


def _leak(folder: Path) -> None:
    image = folder / "images" / "test" / "000001.jpg"
    (folder / "images" / "train800" / "000002.jpg").write_bytes(image.read_bytes())


def _flip(folder: Path) -> None:
    image = folder / "images" / "test" / "000000.jpg"
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)


def _swap(folder: Path) -> None:
    first, second = folder / "val200.txt", folder / "test.txt"
    texts = first.read_text(), second.read_text()
    first.write_text(texts[1])
    second.write_text(texts[0])


@pytest.mark.parametrize(
    ("spoil", "named"), [(_leak, "test/000001.jpg"), (_flip, "000000.jpg"), (_swap, "WRONG")]
)
def test_verify_finds_what_is_wrong_with_a_copy(
    spoil: Callable[[Path], None], named: str, run: Run, dtd: Path
) -> None:
    run(CONVERT)
    spoil(Path("exact/dtd"))
    status, said = run("verify dtd --root exact")
    assert status == 1
    assert "WRONG: " in said
    assert named in said


def test_what_is_converted_is_the_same_and_has_a_record(run: Run, dtd: Path) -> None:
    status, said = run(CONVERT)
    assert status == 0
    assert "exact/dtd" in said
    assert json.loads(Path("exact/dtd/splits.json").read_text())["task"] == "dtd"
    for image in sorted(dtd.rglob("*.jpg")):
        if "train800val200" not in image.parts:
            copy = Path("exact/dtd") / image.relative_to(dtd)
            assert copy.read_bytes() == image.read_bytes()
    assert run("verify dtd --root exact")[0] == 0
    assert run(CONVERT)[0] == 2  # it exists


def test_a_sheet_is_drawn_once(run: Run, dtd: Path) -> None:
    show = "show dtd --images 3 --backbone vit_demo_patch8_32"
    status, said = run(show)
    assert status == 0
    assert "resized to 32x32, aspect not kept, tf1" in said
    with Image.open("dtd.png") as sheet:
        assert sheet.width > 100
    status, said = run(show)
    assert status == 2
    assert "dtd.png exists" in said


def test_a_plan_fetches_nothing(run: Run, work: Path) -> None:
    status, said = run("get dtd cars --plan")
    assert status == 0
    assert "Download https://www.robots.ox.ac.uk/~vgg/data/dtd/" in said
    assert "1. " in said
    assert not list(work.iterdir())


def test_get_continues_after_a_task_that_fails_and_leaves_what_exists(run: Run, dtd: Path) -> None:
    (dtd.parents[1] / "svhn").mkdir()
    before = sorted(dtd.rglob("*"))
    status, said = run("get dtd svhn nabirds")
    assert status == 1
    assert "lists in data/vtab-1k/dtd" in said
    assert "svhn: data/svhn: exists" in said
    assert "pcvpt data verify nabirds --root data" in said  # after steps for the user
    assert sorted(dtd.rglob("*")) == before
    assert run("get nabirds")[0] == 1


def test_groups_stand_for_their_tasks(run: Run) -> None:
    assert run("get fgvc --plan")[1].count("Licence: ") == 5
    assert run("get all dtd --plan")[1].count("Licence: ") == 24


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("verify carss", "'carss'"),
        ("verify", "TASK"),
        ("convert dtd --to tars --target x", "'tars'"),
        ("show cars dtd --output a.png", "--output"),
        ("show dtd --output no/such.png", "no/such.png"),
        ("show dtd --backbone vit_huge", "vit_huge"),
        ("verify dtd --jobs 0", "jobs is 0"),
    ],
)
def test_a_mistake_in_the_command_is_named(arguments: str, named: str, run: Run, dtd: Path) -> None:
    status, said = run(arguments)
    assert status == 2
    assert named in said


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    status, said = run("")
    assert status == 0
    assert "pcvpt data get cars dtd" in said


@pytest.mark.parametrize("arguments", ["list --root r\udcff", "verify dtd --root r\udcff"])
def test_names_that_are_not_utf_8_are_printed(arguments: str, run: Run, dtd: Path) -> None:
    dtd.parents[1].rename("r\udcff")
    status, said = run(arguments)
    assert status == 0
    assert r"r\udcff" in said
