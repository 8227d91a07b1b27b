import json
from pathlib import Path
from typing import Any

import pytest

from miniature.images import write_noise
from pcvpt.data import (
    ImageDataModule,
    ImageFolderDataModule,
    InputSpec,
    JsonDataModule,
    ListFileDataModule,
)
from pcvpt.data.recorded_division import divide_as_recorded, record_division
from pcvpt.data.splits import Classes, divide
from pcvpt.errors import UsageError


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


@pytest.mark.parametrize("form", ["folders", "lists"])
def test_a_single_class_is_refused_with_its_place_and_name(form: str, folders: Path) -> None:
    for split in folders / "train", folders / "test":  # a folder too many
        split.rename(folders / "images")
        split.mkdir()
        (folders / "images").rename(split / "images")
    (folders / "one.txt").write_text("train/images/ant/01.jpg 7\ntrain/images/ant/02.jpg 7\n")
    data: ImageDataModule = ImageFolderDataModule(str(folders))
    if form == "lists":
        data = ListFileDataModule(str(folders), "one.txt")
    place = "one.txt.*: 7" if form == "lists" else f"{folders}: images"
    with pytest.raises(UsageError, match=f"{place} is the only class.*move them up"):
        _ = data.num_classes


@pytest.mark.parametrize("form", ["folders", "lists", "json"])
def test_names_that_are_not_utf_8_are_read_hashed_cached_and_recorded(
    form: str, tmp_path: Path, spec: InputSpec
) -> None:
    root = tmp_path / "r\udcff"
    ids = {f"{c}/{n}\udcff.png": k for k, c in enumerate(("caf\udce9", "dog")) for n in "ab"}
    try:
        for seed, name in enumerate((*ids, "dog/c.png", "dog/d.png")):
            write_noise(root / "train" / name, seed)
    except OSError:
        pytest.skip("this system has no such names")
    (root / "train.json").write_text(json.dumps(ids))
    (root / "train.txt").write_text("dog/c.png 0\ndog/d.png 0\n")  # always UTF-8
    options: dict[str, Any] = {"root": str(root), "batch_size": 1, "cache": "disk"}
    options["cache_folder"] = str(tmp_path / "cache")
    data: ImageDataModule
    if form == "folders":
        data = ImageFolderDataModule(**options)
    elif form == "lists":
        data = ListFileDataModule(train="train.txt", images="train", **options)
    else:
        data = JsonDataModule(train="train.json", images="train", **options)
    data.input_spec = spec
    data.prepare_data()
    assert len(data.hash) == 16
    assert data.class_names == (("0",) if form == "lists" else ("caf\\xe9", "dog"))
    items = data.splits.train + data.splits.val
    divided = divide(items, data.class_names, 0.5, 0)
    assert record_division(items, divided[1], 0.5, 0, root)
    assert divide_as_recorded(items, data.class_names, 0.5, 0, root) == divided


def _data(kind: str, folders: Path) -> tuple[ImageDataModule, tuple[str, ...]]:
    """Return the images of ``folders`` as data of a kind, and their names of ant, bee and cat."""
    if kind == "folders":
        return ImageFolderDataModule(str(folders)), ("ant", "bee", "cat")
    ids = {
        f"{f.parent.name}/{f.name}": "372"["abc".index(f.parent.name[0])]
        for f in folders.glob("train/*/*")
    }
    if kind == "lists":
        (folders / "train.txt").write_text("".join(f"{path} {i}\n" for path, i in ids.items()))
        return ListFileDataModule(str(folders), "train.txt", images="train"), ("3", "7", "2")
    (folders / "train.json").write_text(json.dumps(ids))
    return JsonDataModule(str(folders), "train.json", images="train"), ("ant", "bee", "cat")


@pytest.mark.parametrize("kind", ["folders", "lists", "json"])
def test_labels_are_those_of_a_model_whose_classes_have_the_same_names(
    kind: str, folders: Path
) -> None:
    data, (ant, bee, cat) = _data(kind, folders)
    own = data.hash, {item.source: item.label for item in data.splits.train}
    data.use_classes(Classes((cat, "dog", bee, ant)))
    found = {item.source.parent.name: item.label for item in data.splits.train + data.splits.val}
    assert found == {"ant": 3, "bee": 2, "cat": 0}
    assert data.class_names == (cat, "dog", bee, ant)
    assert data.hash != own[0]
    data.use_classes(Classes((ant, "dog", bee)))
    with pytest.raises(UsageError, match=rf"classes {cat} \(.* lack dog\)"):
        _ = data.splits
    data.use_classes(None)
    assert (data.hash, {item.source: item.label for item in data.splits.train}) == own
