import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt import PromptCondensation, create_model
from pcvpt.analysis.cost import multiply_accumulates
from pcvpt.callbacks import RunSummary
from pcvpt.models.weights.fingerprint import fingerprint

Fit = Callable[..., Any]


def test_results_hold_what_the_run_measured(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    _, module, _ = fit(condense, callbacks=[RunSummary()])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: results.pop(name) for name in condense.report} == condense.report
    kept = module.model.prompts.counts()
    whole = {
        execution: create_model("vit_demo_patch8_32", 4, 4, execution=execution)
        for execution in ("prefix", "tokens")
    }
    data = results.pop("data")
    assert data["images"] == {"train": 40, "val": 13, "test": 2}
    assert data["protocol"] == "timm"
    assert data["preprocessing"].startswith("short side 32, crop 32x32")
    assert results == {
        "macs": multiply_accumulates(module.model),
        "macs_all_prompts": multiply_accumulates(whole["prefix"]),
        "macs_all_prompts_as_tokens": multiply_accumulates(whole["tokens"]),
        "backbone_fingerprint": fingerprint(whole["prefix"]),
        "trained_parameters": 6 * 4 * 160 + 4 * 160 + 4,
    }
    assert results["macs"] < results["macs_all_prompts"] < results["macs_all_prompts_as_tokens"]
    said = capsys.readouterr().out
    for stage in "before", "masked", "finetuned":
        assert f"{condense.report[f'accuracy_{stage}']:.2f} %" in said
    words = " ".join(said.split())
    assert f"prompts kept: {sum(kept)} of 24; per block {' '.join(map(str, kept))}" in words
    assert str(tmp_path) in said
    assert module.model.execution == "prefix"
    assert module.model.prompts.counts() == kept


def test_several_budgets_have_a_row_and_an_entry_each(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    condense = PromptCondensation(
        [0.1, 0.5, 1.0], prompt_epochs=1, finetune_epochs=1, finetune_keep=[0.5, 0.1]
    )
    fit(condense, callbacks=[RunSummary()])
    results = json.loads((tmp_path / "results.json").read_text())
    assert "kept" not in results
    assert "macs" not in results
    for entry, measured in zip(results["budgets"], condense.report["budgets"], strict=True):
        model = create_model("vit_demo_patch8_32", 4, 4)
        model.prompts.apply_mask([torch.arange(4) < count for count in entry["kept"]])
        assert entry == {**measured, "macs": multiply_accumulates(model)}
    macs = [entry["macs"] for entry in results["budgets"]]
    assert macs[0] < macs[1] < macs[2] == results["macs_all_prompts"]
    said = capsys.readouterr().out
    rows = [re.findall(r"[^│]+", line) for line in said.splitlines() if line.startswith("│")]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:4]] for row in rows}
    small, middle, large = condense.report["budgets"]
    assert cells["all 24"][0] == f"{condense.report['accuracy_before']:.2f} %"
    for name, entry in ("2 (0.1)", small), ("12 (0.5)", middle):
        assert cells[name][0] == f"{entry['accuracy_masked']:.2f} %"
        assert cells[name][1] == f"{entry['accuracy_finetuned']:.2f} %"
        assert float(cells[name][2]) == pytest.approx(entry["seconds_finetune"], abs=0.06)
    assert cells["24 (1)"] == [f"{large['accuracy_masked']:.2f} %", "", ""]


def test_plain_prompt_tuning_has_one_row(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(PromptCondensation(keep=None, prompt_epochs=1), callbacks=[RunSummary()])
    said = capsys.readouterr().out
    assert "all prompts trained" in said
    assert "condensed" not in said
    assert "fine-tuned" not in said
    assert "accuracy_masked" not in json.loads((tmp_path / "results.json").read_text())


def test_a_run_without_measurements_says_nothing(
    trainer: Callable[..., Any], tuner: Callable[..., Any], task: Callable[..., Any], tmp_path: Path
) -> None:
    trainer([RunSummary()], max_epochs=1).fit(tuner(), datamodule=task())
    assert not (tmp_path / "results.json").exists()
