import pytest

from pcvpt.data import TASKS
from pcvpt.data.published_results import accuracies, read_table
from pcvpt.data.tasks.task import Task

ROWS = {row["name"]: row for row in read_table("tasks")}


def test_the_table_and_the_seeds_name_the_same_24_tasks() -> None:
    assert len(TASKS) == 24
    assert list(TASKS) == list(ROWS)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_table_is_what_the_seeds_say(task: Task) -> None:
    row = ROWS[task.name]
    assert (task.suite, task.group) == (row["suite"], row["group"])
    for column in "num_classes", "train", "val", "test":
        assert getattr(task, column) == int(row[column])
    assert task.tfds == row["tfds"]
    assert task.rules == (row["train_split"], row["val_split"], row["test_split"])
    assert task.prompts == int(row["deep_prompts_vit_b16"])
    if row["list_folder"]:
        assert row["list_folder"] in (task.name, *task.folders)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_published_accuracies(task: str) -> None:
    assert set(accuracies(task)) == {"full", "linear", "vpt_shallow", "vpt_deep"}
    assert all(0 < value < 100 for value in accuracies(task).values())


def test_the_means_of_the_groups_are_those_of_the_paper() -> None:
    # VPT, Table 1, VPT-Deep on ViT-B/16: FGVC 89.11, Natural 78.48, Specialized 82.43,
    # Structured 54.98.
    expected = {"fgvc": 89.11, "natural": 78.48, "specialized": 82.43, "structured": 54.98}
    for group, mean in expected.items():
        values = [accuracies(t.name)["vpt_deep"] for t in TASKS.values() if t.group == group]
        assert sum(values) / len(values) == pytest.approx(mean, abs=0.05)
