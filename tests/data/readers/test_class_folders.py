import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from miniature.images import write_noise
from pcvpt.data.readers.class_folders import read_class_folders
from pcvpt.errors import UsageError


def test_classes_are_the_sorted_folders_of_train(folders: Path) -> None:
    splits = read_class_folders(folders)
    assert splits.class_names == ("ant", "bee", "cat")
    for item in splits.train + splits.test:
        assert isinstance(item.source, Path)
        assert item.source.parent.name == splits.class_names[item.label]
    assert (len(splits.train), splits.val, len(splits.test)) == (20, None, 6)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_of_one_split_is_refused_with_the_folder_above_it(
    folders: Path, split: str
) -> None:
    with pytest.raises(UsageError, match=f"{split} holds one split; .* above it, {folders}$"):
        read_class_folders(folders / split)


def test_a_class_missing_in_val_or_test_does_not_shift_labels(folders: Path) -> None:
    image = write_noise(folders / "val" / "cat" / "0.png")
    shutil.rmtree(folders / "test" / "ant")
    splits = read_class_folders(folders)
    assert splits.val == ((image, 2),)
    assert {item.label for item in splits.test} == {1, 2}
    shutil.rmtree(folders / "test")
    assert read_class_folders(folders).test == ()


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("test/dog/0.jpg", "test/dog: class 'dog'"),
        ("train/dog/notes.txt", r"train: no images in class dog; .*1 \.txt"),
        ("val/ant/no image", "val: no images"),
        ("val/no folder", "val: no folders in it"),
        ("valid/no folder", "valid: no folders in it"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(folders: Path, new: str, message: str) -> None:
    (folders / new).parent.mkdir(parents=True)
    (folders / new).touch()
    with pytest.raises(UsageError, match=message):
        read_class_folders(folders)


@pytest.mark.parametrize(("root", "missing"), [("none", "none/train"), ("", "train")])
def test_a_missing_folder_is_named_with_the_layout(root: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=rf"/{missing}: cannot be read .No such .*train/<class>/<image>"
    ):
        read_class_folders(tmp_path / root)


@pytest.mark.parametrize("part", ["train", "train/bee"])
def test_an_unreadable_folder_is_named(
    folders: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # permissions do not bind the administrator
        if Path(path) == folders / part:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match=rf"{part}: .*Permission denied"):
        read_class_folders(folders)


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_the_folder_of_val_has_several_names_but_is_one(folders: Path, name: str) -> None:
    image = write_noise(folders / name / "cat" / "0.png")
    assert read_class_folders(folders).val == ((image, 2),)
    (folders / "val").mkdir()
    with pytest.raises(UsageError, match=f"animals: has the folders val and {name}"):
        read_class_folders(folders)


def test_one_note_counts_what_is_passed_over(folders: Path) -> None:
    assert read_class_folders(folders).notes == ()
    for name in "train/ant/1.HEIC", "train/ant/2.txt", "test/bee/3.txt", "test/4.jpg":
        (folders / name).touch()
    (note,) = read_class_folders(folders).notes
    for part in "2 .txt (Pillow", "1 .heic (pip install pillow-heif", "1 .jpg (in no class folder)":
        assert part in note


@pytest.mark.parametrize("target", ["..", ".", "../ant", "../../..", "../../link"])
def test_links_between_the_folders_of_a_split_give_no_image_a_second_class(
    folders: Path, target: str
) -> None:
    (folders / "link").symlink_to(folders / "train", target_is_directory=True)
    before = read_class_folders(folders)
    (folders / "train" / "cat" / "link").symlink_to(target, target_is_directory=True)
    splits = read_class_folders(folders)
    assert (splits.train, splits.test) == (before.train, before.test)
    assert "1 links to folders (already read)" in splits.notes[0]


def test_a_linked_folder_elsewhere_is_read_once(folders: Path, tmp_path: Path) -> None:
    write_noise(tmp_path / "more" / "0.jpg")
    (tmp_path / "more" / "circle").symlink_to("..", target_is_directory=True)
    for name in "1", "2":
        (folders / "train" / "cat" / name).symlink_to(tmp_path / "more", target_is_directory=True)
    cats = [str(item.source) for item in read_class_folders(folders).train if item.label == 2]
    assert len(cats) == len(set(map(os.path.realpath, cats)))
    assert sum(cat.endswith("1/0.jpg") for cat in cats) == 1


def test_val_may_be_a_link_to_another_split(folders: Path) -> None:
    (folders / "val").symlink_to(folders / "test", target_is_directory=True)
    splits = read_class_folders(folders)
    assert splits.val is not None
    assert len(splits.val) == len(splits.test) == 6
