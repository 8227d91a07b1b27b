"""The 24 tasks, one row each of ``seeds/tasks.csv``.

Classes, sizes and sub-splits are those of Jia et al., ECCV 2022 (https://arxiv.org/abs/2203.12119),
and of VTAB (Zhai et al., https://arxiv.org/abs/1910.04867).
"""

from typing import Any

from pcvpt.data.published_results import read_table
from pcvpt.data.tasks.task import Task

_TEXTS = ("name", "title", "suite", "group", "licence", "homepage", "images", "tfds", "sibling")
_NUMBERS = ("num_classes", "train", "val", "test")


def _task(row: dict[str, str]) -> Task:
    fields: dict[str, Any] = {name: row[name] for name in _TEXTS}
    fields |= {name: int(row[name]) for name in _NUMBERS}
    rules = row["train_split"], row["val_split"], row["test_split"]
    prompts, folders = int(row["deep_prompts_vit_b16"]), tuple(row["folders"].split())
    return Task(**fields, rules=rules, prompts=prompts, folders=folders)


TASKS = {row["name"]: _task(row) for row in read_table("tasks")}
"""The rows by name."""
