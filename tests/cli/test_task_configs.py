"""Each of the 24 configs trains, condenses and tests on miniature data in a real layout."""

import json
from pathlib import Path

import pytest

from miniature import fgvc, lists
from pcvpt.cli.main import main
from pcvpt.data import TASKS

QUICK = "dtd"  # in every run of the tests; the others are slow together

SMALL = """
model: {backbone: vit_demo_patch8_32, num_prompts: 2}
data: {init_args: {batch_size: 3, num_workers: 0}}
condense: {prompt_epochs: 1, finetune_epochs: 1}
trainer: {accelerator: cpu, limit_train_batches: 2, check_val_every_n_epoch: 1}
"""


@pytest.mark.parametrize(
    "name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TASKS]
)
def test_a_shipped_task_trains_condenses_and_tests(name: str, work: Path) -> None:
    task = TASKS[name]
    # Folders that two tasks share are not taken for lists, whose labels would look alike.
    alias = name if task.sibling or not task.folders else task.folders[0]
    folder = work / "data" / alias
    if task.suite == "fgvc":
        fgvc.write_json(folder, name, classes=task.num_classes, per_class=1)
    else:
        lists.write(task, folder)
    Path("small.yaml").write_text(SMALL)
    main(["fit", "--config", f"{name}.yaml", "--config", "small.yaml", "--name", "run"])
    results = json.loads(Path("runs/run/version_0/results.json").read_text())
    assert results["prompts"] == 12
    assert sum(results["kept"]) == 4
    data = results["data"]
    assert (data["task"], data["classes"], data["protocol"]) == (name, task.num_classes, "vpt")
    assert ("aspect not kept" in data["preprocessing"]) == (task.suite == "vtab")
    assert ("list files" if task.suite == "vtab" else "json") in data["source"].lower()
    main(["test", "runs/run"])
    tested = json.loads(Path("runs/run/version_0/test-finetune-best.json").read_text())
    assert 0 <= tested["test/accuracy"] <= 1
    assert tested["data"]["images"]["test"] == (
        2 * task.num_classes if task.suite == "fgvc" else len(lists.LABELS["test"])
    )
