import json
from pathlib import Path

from pcvpt.data import ImageFolderDataModule, JsonDataModule, ListFileDataModule


def test_a_missing_val_is_divided_off_train(folders: Path) -> None:
    splits = ImageFolderDataModule(str(folders), val_fraction=0.25).splits
    assert (len(splits.train), len(splits.val), len(splits.test)) == (14, 6, 6)
    assert not set(splits.train) & set(splits.val)


def test_lists_lie_below_the_root_or_anywhere(folders: Path, tmp_path: Path) -> None:
    (folders / "train.txt").write_text("train/ant/00.jpg 3\ntrain/bee/00.jpg 4\n")
    (tmp_path / "val.txt").write_text("train/ant/01.jpg 3\n")
    data = ListFileDataModule(str(folders), train="train.txt", val=str(tmp_path / "val.txt"))
    assert data.class_names == ("3", "4")
    assert data.splits.val == ((folders / "train" / "ant" / "01.jpg", 0),)
    assert "train.txt" in data.source


def test_json_files_give_all_splits(folders: Path) -> None:
    files = {
        "train.json": {"ant/00.jpg": 5, "bee/00.jpg": 2},
        "val.json": {"ant/01.jpg": 5},
        "test.json": {"bee/01.jpg": 2},
    }
    for name, ids in files.items():
        (folders / name).write_text(json.dumps(ids))
    data = JsonDataModule(str(folders), *files, images="train")
    assert data.class_names == ("bee", "ant")
    assert data.splits.val == ((folders / "train/ant/01.jpg", 1),)
    assert data.splits.test == ((folders / "train/bee/01.jpg", 0),)
