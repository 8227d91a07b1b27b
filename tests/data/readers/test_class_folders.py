import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcvpt.data.readers.class_folders import read_class_folders
from pcvpt.errors import UsageError

WriteImage = Callable[..., Path]


def test_classes_are_the_sorted_folders_of_train(folders: Path) -> None:
    splits = read_class_folders(folders)
    assert splits.class_names == ("ant", "bee", "cat")
    for item in splits.train + splits.test:
        assert isinstance(item.source, Path)
        assert item.source.parent.name == splits.class_names[item.label]
    assert (len(splits.train), splits.val, len(splits.test)) == (20, None, 6)


def test_a_val_folder_is_read(folders: Path, write_image: WriteImage) -> None:
    image = write_image(folders / "val" / "cat" / "0.png")
    assert read_class_folders(folders).val == ((image, 2),)


def test_a_class_missing_in_test_does_not_shift_labels(folders: Path) -> None:
    shutil.rmtree(folders / "test" / "ant")
    assert {item.label for item in read_class_folders(folders).test} == {1, 2}


def test_the_test_folder_may_be_absent(folders: Path) -> None:
    shutil.rmtree(folders / "test")
    assert read_class_folders(folders).test == ()


def test_a_missing_root_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: .*train/<class>/<image>"):
        read_class_folders(tmp_path / "nowhere")


def test_a_missing_train_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"/train: no such folder"):
        read_class_folders(tmp_path)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("test/dog/0.jpg", "test/dog: class 'dog'"),
        ("train/dog/notes.txt", r"train: no images in class dog; .*\.jpeg"),
        ("val/ant/", "val: no images"),
        ("val/", "val: no class folders"),
    ],
)
def test_a_folder_that_does_not_fit_is_named(folders: Path, new: str, message: str) -> None:
    path = folders / new
    (path if new.endswith("/") else path.parent).mkdir(parents=True)
    if not new.endswith("/"):
        path.touch()
    with pytest.raises(UsageError, match=message):
        read_class_folders(folders)


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
