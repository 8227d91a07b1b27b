import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcvpt.data.readers.listed_images import subfolder
from pcvpt.data.readers.listed_splits import ClassIds, read_json, read_list
from pcvpt.errors import UsageError

NAMES, IDS = st.text() | st.just("0.jpg"), st.integers() | st.text()
LINES = st.lists(st.tuples(NAMES, IDS).map(lambda pair: f"{pair[0]} {pair[1]}")).map("\n".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)
TEXTS = st.text() | LINES | st.dictionaries(NAMES, IDS).map(json.dumps) | VALUES.map(json.dumps)


@pytest.mark.parametrize("read", [read_json, read_list])
@settings(max_examples=60, deadline=None)
@given(content=st.binary() | TEXTS)
def test_no_content_ends_in_another_error(
    read: Callable[[Path, Path], ClassIds],
    root: Path,
    write: Callable[..., Path],
    content: str | bytes,
) -> None:
    with suppress(UsageError):
        ids = read(write(content), root)
        assert ids
        assert all(path.is_file() and class_id >= 0 for path, class_id in ids.items())


@pytest.mark.parametrize("read", [read_json, read_list])
def test_a_missing_file_is_named(read: Callable[[Path, Path], ClassIds], root: Path) -> None:
    with pytest.raises(UsageError, match="none: cannot be read"):
        read(root / "none", root)


def test_a_folder_is_found_in_any_case_and_in_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "IMAGES" / "images").mkdir(parents=True)
    assert subfolder(tmp_path, "Images") == tmp_path / "IMAGES" / "images"
    with pytest.raises(UsageError, match=r"none: .*No such file"):
        subfolder(tmp_path / "none", "images")
