from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt.cli.analyze.trained_model import open_model


def test_accuracies_are_those_of_masked_models(
    run: Path, analyze: Any, accuracy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = analyze("layers", run, "--split", "test", "--images", 25)
    assert found.files() == {"layers.csv", "layers.png", "layers.svg"}
    rows = found.rows("layers.csv")
    assert [int(row["prompts"]) for row in rows] == [20] * 6
    trained = open_model(run, "prompt-last")
    keep = trained.model.prompts.keep.clone()
    assert float(rows[0]["accuracy_untouched"]) == pytest.approx(accuracy(trained, "test", 25))
    block = (torch.arange(6) == 4)[:, None]
    for column, mask in ("accuracy_without", keep & ~block), ("accuracy_alone", keep & block):
        trained.model.prompts.apply_mask(list(mask))
        assert float(rows[4][column]) == pytest.approx(accuracy(trained, "test", 25))
    assert "25 test images" in capsys.readouterr().out


@pytest.mark.slow
def test_a_checkpoint_and_an_adapter_of_a_run_have_the_same_table(run: Path, analyze: Any) -> None:
    tables = [
        analyze("layers", *which, "--images", 25).rows("layers.csv")
        for which in ([run, "--checkpoint", "finetune-best"], [run / "adapter.safetensors"])
    ]
    assert tables[0] == tables[1]
    kept = open_model(run).model.prompts.counts()
    assert [int(row["prompts"]) for row in tables[0]] == kept
