import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcvpt.data.readers.class_folders import read_class_folders
from pcvpt.data.splits import Splits
from pcvpt.errors import UsageError

WriteImage = Callable[..., Path]


def _read(root: Path) -> Splits:
    return read_class_folders(root, val_fraction=0.25, split_seed=0)


def test_classes_are_the_sorted_folders_of_train(folders: Path) -> None:
    splits = _read(folders)
    assert splits.class_names == ("ant", "bee", "cat")
    for item in splits.train + splits.val + splits.test:
        assert isinstance(item.source, Path)
        assert item.source.parent.name == splits.class_names[item.label]
    assert (len(splits.train), len(splits.val), len(splits.test)) == (14, 6, 6)


def test_a_val_folder_is_taken_and_train_left_whole(folders: Path, write_image: WriteImage) -> None:
    image = write_image(folders / "val" / "cat" / "0.png")
    splits = _read(folders)
    assert splits.val == ((image, 2),)
    assert len(splits.train) == 20


def test_a_class_missing_in_test_does_not_shift_labels(folders: Path) -> None:
    shutil.rmtree(folders / "test" / "ant")
    assert {item.label for item in _read(folders).test} == {1, 2}


def test_the_test_folder_may_be_absent(folders: Path) -> None:
    shutil.rmtree(folders / "test")
    assert _read(folders).test == ()


def test_a_class_unknown_to_train_is_named(folders: Path, write_image: WriteImage) -> None:
    write_image(folders / "test" / "dog" / "0.jpg")
    with pytest.raises(UsageError, match="class 'dog' has no folder in train"):
        _read(folders)


def test_a_missing_root_shows_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such folder; expected .*train/<class>"):
        _read(tmp_path / "nowhere")


def test_a_missing_train_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train: no such folder; root is the folder that"):
        _read(tmp_path)


def test_an_empty_train_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="train: no class folders"):
        _read(tmp_path)


def test_a_train_class_without_images_is_named(folders: Path) -> None:
    (folders / "train" / "dog").mkdir()
    (folders / "train" / "dog" / "notes.txt").write_text("none yet")
    with pytest.raises(UsageError, match="no images in class dog"):
        _read(folders)


def test_a_val_folder_without_images_is_named(folders: Path) -> None:
    (folders / "val" / "ant").mkdir(parents=True)
    with pytest.raises(UsageError, match="val: no images"):
        _read(folders)


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
        _read(folders)
