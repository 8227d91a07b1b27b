"""Class paths of runs that were made before classes moved still load."""

from pathlib import Path

import pytest

from pcvpt.cli.config_errors import parse
from pcvpt.cli.config_files import expand
from pcvpt.cli.resume import differences
from pcvpt.cli.yaml_file import load

OLD = """
data: {class_path: pcvpt.data.DemoTask, init_args: {batch_size: 25, num_workers: 0}}
trainer:
  callbacks:
  - class_path: pcvpt.callbacks.checkpointing.PhaseCheckpoint
    init_args: {monitor: val/accuracy}
  - class_path: pcvpt.callbacks.inspection.PromptInspector
  - class_path: pcvpt.callbacks.record.RunRecord
"""


def test_a_saved_config_names_the_classes_of_today(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(OLD)
    config = parse("fit", expand(["--config", str(tmp_path / "config.yaml")])[0])
    assert config.data.class_path == "pcvpt.data.DemoDataModule"
    names = [callback.class_path for callback in config.trainer.callbacks]
    shown = ("PhaseCheckpoint", "PromptInspector", "RunRecord")
    assert names == [f"pcvpt.callbacks.{name}" for name in shown]


def test_a_class_that_moved_is_no_difference_when_a_run_is_resumed() -> None:
    former, now = (
        load(f"data: {{class_path: pcvpt.data.Demo{n}}}") for n in ("Task", "DataModule")
    )
    assert not differences(former, now)


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("pcvpt.data.own.ListFileTask", "pcvpt.data.ListFileDataModule"),
        ("pcvpt.data.JsonTask", "pcvpt.data.JsonDataModule"),
        ("pcvpt.data.table.TableTask", "pcvpt.data.BenchmarkDataModule"),
        ("pcvpt.data.tasks.CUB", "pcvpt.data.CUB"),
        ("pcvpt.module.PromptTuner", "pcvpt.training.module.PromptTuner"),
        ("pcvpt.recipe.PhaseRecipe", "pcvpt.training.recipe.PhaseRecipe"),
        ("other.data.DemoTask", "other.data.DemoTask"),
        ("runs/demo_task", "runs/demo_task"),
    ],
)
def test_each_former_path_has_a_present_one(former: str, now: str) -> None:
    assert load(f"class_path: {former}") == {"class_path": now}
