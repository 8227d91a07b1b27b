import pickle
import subprocess
import sys

import pytest

from pcvpt import data
from pcvpt.data import TASKS, BenchmarkDataModule

BENCHMARK = [
    kind
    for kind in BenchmarkDataModule.__subclasses__()
    if kind.__module__ == "pcvpt.data.datamodules.tasks"
]


def test_each_row_of_the_table_has_one_class() -> None:
    assert [kind.row for kind in BENCHMARK] == list(TASKS.values())


@pytest.mark.parametrize("kind", BENCHMARK)
def test_a_class_describes_its_row(kind: type[BenchmarkDataModule]) -> None:
    assert kind.__doc__ == (
        f"{kind.row.title}: {kind.row.num_classes} classes, {kind.row.test:,} test images."
    )
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_the_names_are_all_there() -> None:
    assert set(data.__all__) <= set(dir(data))
    with pytest.raises(AttributeError, match="StanfordCar"):
        data.StanfordCar  # noqa: B018


def test_the_table_and_the_layouts_need_no_torch() -> None:
    code = """
import sys
import pcvpt.data.layouts
from pcvpt.data import TASKS
assert len(TASKS) == 24
assert not {"torch", "lightning", "torchvision"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
