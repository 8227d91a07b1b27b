"""The table is complete, and the published results are those of the paper."""

import pytest

from pcvpt.data import TASKS, Task
from pcvpt.data.published_results import accuracies, read_table
from pcvpt.data.tasks.tfds_splits import span, split_of

ROWS = {row["name"]: row for row in read_table("tasks")}


def test_there_are_24_tasks_of_two_suites() -> None:
    assert len(TASKS) == 24
    assert {(task.suite, task.group) for task in TASKS.values()} == {
        ("fgvc", "fgvc"),
        *(("vtab", group) for group in ("natural", "specialized", "structured")),
    }


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_has_what_its_suite_needs(task: Task) -> None:
    assert task.test > task.val > 0
    if task.suite == "vtab":
        assert (task.train, task.val) == (800, 200)
        lengths = {split_of(rule): 10**6 for rule in task.rules}
        train, val, _ = (span(rule, lengths) for rule in task.rules)
        assert (train.stop - train.start, val.stop - val.start) == (800, 200)
    assert bool(task.tfds) == all(task.rules) == (task.suite == "vtab")
    assert task.sibling == "" or TASKS[task.sibling].sibling == task.name
    assert ROWS[task.name]["list_folder"] in ("", task.name, *task.folders)


def test_the_means_of_the_groups_are_those_of_the_paper() -> None:
    # VPT, Table 1, VPT-Deep on ViT-B/16.
    expected = {"fgvc": 89.11, "natural": 78.48, "specialized": 82.43, "structured": 54.98}
    for group, mean in expected.items():
        published = [accuracies(task.name) for task in TASKS.values() if task.group == group]
        assert all(set(row) == {"full", "linear", "vpt_shallow", "vpt_deep"} for row in published)
        values = [row["vpt_deep"] for row in published]
        assert sum(values) / len(values) == pytest.approx(mean, abs=0.05)
