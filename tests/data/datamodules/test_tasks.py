import pickle

import pytest

from pcvpt import data
from pcvpt.data import TASKS, BenchmarkDataModule

KINDS = [getattr(data, name) for name in data.__all__ if hasattr(getattr(data, name), "row")]


def test_each_row_of_the_table_has_one_class_which_describes_it() -> None:
    rows = {kind.row.name: kind.row for kind in KINDS}
    assert len(KINDS) == len(rows) == 24
    assert rows == TASKS
    for kind in KINDS:
        assert issubclass(kind, BenchmarkDataModule)
        assert f"{kind.row.num_classes} classes, {kind.row.test:,} test" in str(kind.__doc__)
        assert pickle.loads(pickle.dumps(kind)) is kind


def test_the_names_are_all_there() -> None:
    assert set(data.__all__) <= set(dir(data))
    with pytest.raises(AttributeError, match="StanfordCar"):
        data.StanfordCar  # noqa: B018
