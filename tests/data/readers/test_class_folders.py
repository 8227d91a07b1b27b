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
        ("train/dog/notes.txt", r"train: no images in class dog; .*\.jpeg"),
        ("val/ant/no image", "val: no images"),
        ("val/no folder", "val: no class folders"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(folders: Path, new: str, message: str) -> None:
    (folders / new).parent.mkdir(parents=True)
    (folders / new).touch()
    with pytest.raises(UsageError, match=message):
        read_class_folders(folders)


@pytest.mark.parametrize(("root", "missing"), [("none", "none"), ("", "train")])
def test_a_missing_folder_is_named_with_the_layout(root: str, missing: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"/{missing}: no such .*train/<class>/<image>"):
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
    with pytest.raises(UsageError, match=rf"{part}: Permission denied"):
        read_class_folders(folders)
