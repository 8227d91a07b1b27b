import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcvpt.data.datamodules.own_images import JsonDataModule
from pcvpt.data.readers.json_splits import read_json, read_json_splits
from pcvpt.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with files that stand for images; splits are read without decoding."""
    for name in *"0123456789", "my cat", "ant/0", "ant/1", "bee/0", "deep/bee/1", "bee/1":
        path = tmp_path / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def _write(root: Path, text: str | bytes, name: str = "train.json") -> Path:
    file = root / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def _read(root: Path, text: str | bytes) -> dict[str, int]:
    images = root / "images"
    found = read_json(_write(root, text), images)
    return {path.relative_to(images).as_posix(): class_id for path, class_id in found.items()}


def test_ids_are_numbers_or_digits(root: Path) -> None:
    assert _read(root, '{"my cat.jpg": 7, "1.jpg": "0"}') == {"my cat.jpg": 7, "1.jpg": 0}


def test_a_byte_order_mark_is_accepted(root: Path) -> None:
    assert _read(root, '\ufeff{"1.jpg": 2}') == {"1.jpg": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0.jpg": 1,\n "1.jpg" 2}', "train.json:2:10: not JSON"),
        ("", "train.json:1:1: not JSON"),
        ('["0.jpg"]', "not a JSON object"),
        ('[["0.jpg", 1]]', "not a JSON object"),
        ("{}", "train.json: empty"),
        ("[" * 100_000, "train.json: nested too deeply"),
        (b'{"\xff": 1}', "train.json: not UTF-8"),
        ('{"0.jpg": "cat"}', "the class of '0.jpg' is \"cat\", not an integer"),
        ('{"0.jpg": 1.0}', "is 1.0, not an integer"),
        ('{"0.jpg": "1_0"}', 'is "1_0", not an integer'),
        ('{"0.jpg": true}', "is true, not an integer"),
        ('{"0.jpg": null}', "is null, not an integer"),
        ('{"0.jpg": NaN}', "is NaN, not an integer"),
        ('{"0.jpg": [1]}', "is a list, not an integer"),
        ('{"0.jpg": {"class": 1}}', "is an object, not an integer"),
        ('{"0.jpg": ' + "9" * 5000 + "}", "not an integer"),
        ('{"0.jpg": -1}', "'0.jpg' is -1, a negative number"),
        ('{"0.jpg": "-1"}', "'0.jpg' is -1, a negative number"),
        ('{"0.jpg": 1, "1.jpg": 2, "0.jpg": 1}', "'0.jpg' is listed twice"),
        ('{"0.jpg": 1, "./0.jpg": 1}', "'./0.jpg' is listed twice"),
        ('{"/0.jpg": 1}', "'/0.jpg' leads out of"),
        ('{"C:\\\\0.jpg": 1}', "leads out of"),
        ('{"../images/0.jpg": 1}', "'../images/0.jpg' leads out of"),
        ('{"ant/../0.jpg": 1}', "leads out of"),
        ('{"ant\\\\..\\\\0.jpg": 1}', "leads out of"),
        ('{"": 1}', "1 of 1 listed images do not exist"),
        ('{"a\\u0000b": 1}', "1 of 1 listed images do not exist"),
        ('{"\\ud800": 1}', "1 of 1 listed images do not exist"),
    ],
)
def test_a_bad_file_is_named(root: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        _read(root, text)
    assert "train.json" in str(caught.value)


def test_names_that_only_look_like_ways_out_are_accepted(root: Path) -> None:
    (root / "images" / "..a").mkdir()
    (root / "images" / "..a" / "b...jpg").touch()
    assert _read(root, '{"..a/b...jpg": 1}') == {"..a/b...jpg": 1}


def test_of_many_missing_images_a_few_are_named(root: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.json: 8 of 9 listed images do not") as caught:
        _read(root, json.dumps({"0.jpg": 0} | {f"no{number}.jpg": 0 for number in range(8)}))
    assert str(caught.value).count("/no") == 5
    assert str(caught.value).endswith("and 3 more")


def test_a_missing_file_is_named(root: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: cannot be read \(No such file"):
        read_json(root / "none.json", root)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example writes it anew
)
@given(
    st.one_of(
        st.binary(),
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda values: st.lists(values) | st.dictionaries(st.text(), values),
        ).map(json.dumps),
        st.dictionaries(st.text() | st.just("0.jpg"), st.integers() | st.text()).map(json.dumps),
    )
)
def test_no_content_ends_in_another_error(root: Path, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    with suppress(UsageError):
        ids = _read(root, data)
        assert ids
        assert all((root / "images" / name).is_file() and ids[name] >= 0 for name in ids)


def test_one_map_from_train_serves_all_splits(root: Path) -> None:
    splits = read_json_splits(
        root / "images",
        _write(root, '{"0.jpg": 10, "1.jpg": "2", "2.jpg": 5}'),
        _write(root, '{"3.jpg": 10}', "val.json"),
        _write(root, '{"4.jpg": 5, "5.jpg": 10}', "test.json"),
    )
    assert splits.class_names == ("2", "5", "10")
    assert [item.label for item in splits.train] == [2, 0, 1]
    assert [item.label for item in splits.val or ()] == [2]
    assert [item.label for item in splits.test] == [1, 2]


def test_a_class_unknown_to_train_is_named(root: Path) -> None:
    train, val = _write(root, '{"0.jpg": 1}'), _write(root, '{"1.jpg": 1, "2.jpg": 3}', "val.json")
    with pytest.raises(UsageError, match=r"val\.json: class 3 of .*2\.jpg does not occur"):
        read_json_splits(root / "images", train, val, None)


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ({"ant/0.jpg": 5, "ant/1.jpg": 5, "bee/0.jpg": 2}, ("bee", "ant")),
        ({"ant/0.jpg": 5, "bee/1.jpg": 5, "bee/0.jpg": 2}, ("2", "5")),
        ({"ant/0.jpg": 5, "ant/1.jpg": 2}, ("2", "5")),
        ({"bee/0.jpg": 5, "deep/bee/1.jpg": 2}, ("2", "5")),
        ({"0.jpg": 5, "ant/1.jpg": 2}, ("2", "5")),
    ],
)
def test_classes_are_named_after_folders_of_their_own(
    root: Path, train: dict[str, int], names: tuple[str, ...]
) -> None:
    file = _write(root, json.dumps(train))
    assert read_json_splits(root / "images", file, None, None).class_names == names


def test_a_task_of_ones_own_divides_train_where_val_is_missing(root: Path) -> None:
    _write(root, json.dumps({f"{number}.jpg": number % 2 for number in range(8)}))
    _write(root, '{"8.jpg": 0, "9.jpg": 1}', "test.json")
    task = JsonDataModule(
        str(root), "train.json", test="test.json", images="images", val_fraction=0.25
    )
    assert task.class_names == ("0", "1")
    assert [item.label for item in task.splits.test] == [0, 1]
    assert sorted(item.label for item in task.splits.val) == [0, 1]
    assert len(task.splits.train) == 6
    assert not set(task.splits.train) & set(task.splits.val)


def test_a_task_of_ones_own_takes_its_val(root: Path) -> None:
    _write(root, '{"images/0.jpg": 3, "images/1.jpg": 4}')
    _write(root, '{"images/2.jpg": 4}', "val.json")
    task = JsonDataModule(str(root), train="train.json", val="val.json")
    assert len(task.splits.train) == 2
    assert task.splits.val == ((root / "images" / "2.jpg", 1),)
    assert task.splits.test == ()
