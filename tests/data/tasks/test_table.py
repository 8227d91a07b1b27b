"""The table agrees with the seeds, and the seeds with the paper."""

import pytest

from pcvpt.data import TASKS, Task
from pcvpt.data.published_results import accuracies, read_table

ROWS = {row["name"]: row for row in read_table("tasks")}


def test_the_table_and_the_seeds_name_the_same_24_tasks() -> None:
    assert len(TASKS) == 24
    assert list(TASKS) == list(ROWS)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_table_is_what_the_seeds_say(task: Task) -> None:
    row = ROWS[task.name]
    for column in "suite", "group", "num_classes", "train", "val", "test", "tfds":
        assert str(getattr(task, column)) == row[column]
    assert task.rules == (row["train_split"], row["val_split"], row["test_split"])
    assert task.prompts == int(row["deep_prompts_vit_b16"])
    assert not row["list_folder"] or row["list_folder"] in (task.name, *task.folders)


def test_the_means_of_the_groups_are_those_of_the_paper() -> None:
    # VPT, Table 1, VPT-Deep on ViT-B/16.
    expected = {"fgvc": 89.11, "natural": 78.48, "specialized": 82.43, "structured": 54.98}
    for group, mean in expected.items():
        published = [accuracies(task.name) for task in TASKS.values() if task.group == group]
        assert all(set(row) == {"full", "linear", "vpt_shallow", "vpt_deep"} for row in published)
        values = [row["vpt_deep"] for row in published]
        assert sum(values) / len(values) == pytest.approx(mean, abs=0.05)
