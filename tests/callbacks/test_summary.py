import json
import re
from pathlib import Path
from typing import Any

import fvcore.nn
import pytest
import torch
from factories import Fit, Run, TinyData, make_trainer, make_tuner

from pcvpt import create_model
from pcvpt.analysis.mac_counting import macs_by_block, without_weights
from pcvpt.analysis.stages import answer, stage_table, stages, wilson
from pcvpt.callbacks import RunSummary
from pcvpt.models import PromptedTransformer
from pcvpt.models.weights.fingerprint import fingerprint


def _macs(model: PromptedTransformer) -> int:
    return macs_by_block(without_weights(model), images=1)[""]


def _results(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def _cells(folder: Path) -> dict[str, dict[str, str]]:
    return {f"{row['stage']} {row['prompts']}": row for row in stages(folder)}


def test_results_hold_what_the_run_measured(two_phases: Run) -> None:
    results, report = _results(two_phases.folder), two_phases.report
    cells = _cells(two_phases.folder)
    for stage, name in (
        ("all prompts trained 24", "before"),
        ("condensed 7", "masked"),
        ("fine-tuned 7", "finetuned"),
    ):
        accuracy = report[f"accuracy_{name}"]
        assert cells[stage]["val accuracy"] == f"{accuracy:.2f} %"
        assert cells[stage]["95 % interval"] == wilson(accuracy, 13)
    kept = two_phases.module.model.prompts.counts()
    told = f"Condensed to {sum(kept)} of 24 (per block {' '.join(map(str, kept))}), "
    assert told in answer([two_phases.folder])
    assert {name: results.pop(name) for name in report} == report
    assert results.pop("images_per_second") > 0
    assert results.pop("device")
    assert results.pop("peak_memory_mb") > 0
    data = results.pop("data")
    assert data["images"] == {"train": 40, "val": 13, "test": 2}
    assert data["protocol"] == "timm"
    assert re.match("short side 32, crop 32x32", data["preprocessing"])
    prefix, tokens = (
        create_model("vit_demo_patch8_32", 4, 4, execution=execution)
        for execution in ("prefix", "tokens")
    )
    bare = create_model("vit_demo_patch8_32", 4, 0, mode="linear", execution="tokens")
    assert results == {
        "macs": _macs(two_phases.module.model),
        "macs_without_prompts": _macs(bare),
        "macs_all_prompts": _macs(prefix),
        "macs_all_prompts_as_tokens": _macs(tokens),
        "backbone_fingerprint": fingerprint(prefix),
        "trained_parameters": 6 * 4 * 160 + 4 * 160 + 4,
    }
    assert results["macs"] < results["macs_all_prompts"] < results["macs_all_prompts_as_tokens"]


@pytest.mark.parametrize(
    ("condense", "mode", "numbers"),
    [
        ({"method": "merge"}, "deep", 160),
        ({"finetune_as": "key_value"}, "deep", 160),
        ({}, "prefix", 2 * 160),
        ({"method": "merge"}, "prefix", 2 * 160),
    ],
)
def test_all_prompts_count_as_they_were_trained_and_the_rest_as_it_is_left(
    fit: Fit, condense: dict[str, Any], mode: Any, numbers: int
) -> None:
    run = fit(condense, make_tuner(mode=mode), callbacks=[RunSummary()])
    results, model = _results(run.folder), create_model("vit_demo_patch8_32", 4, 4, mode=mode)
    assert run.module.model.prompts.form == "key_value"
    assert results["trained_parameters"] == 6 * 4 * numbers + 4 * 160 + 4
    assert results["macs_all_prompts"] == _macs(model)
    assert results["macs"] == _macs(run.module.model)
    assert results["macs"] < results["macs_all_prompts"] < results["macs_all_prompts_as_tokens"]


def test_each_of_several_budgets_has_a_row_and_an_entry(three_budgets: Run) -> None:
    results, report = _results(three_budgets.folder), three_budgets.report
    assert not {"kept", "macs"} & results.keys()
    model = create_model("vit_demo_patch8_32", 4, 4)
    for entry, measured in zip(results["budgets"], report["budgets"], strict=True):
        model.prompts.apply_mask([torch.arange(4) < count for count in entry["kept"]])
        assert entry == {**measured, "macs": _macs(model)}
    cells = _cells(three_budgets.folder)
    small, middle, large = report["budgets"]
    assert cells.pop("all prompts trained 24")["test accuracy"] == ""
    for number, entry in (2, small), (7, middle), (12, large):
        found = cells.pop(f"condensed {number}")
        assert found["val accuracy"] == f"{entry['accuracy_masked']:.2f} %"
        if entry is not middle:
            found = cells.pop(f"fine-tuned {number}")
            assert found["val accuracy"] == f"{entry['accuracy_finetuned']:.2f} %"
            assert found["seconds"] == f"{entry['seconds_finetune']:.1f}"
    assert cells == {}
    headers = [column.header for column in stage_table([three_budgets.folder]).columns]
    assert headers[:3] == ["stage", "prompts", "val accuracy"]
    assert "test accuracy" not in headers  # nothing is tested yet


def test_merged_budgets_that_are_not_fine_tuned_cost_what_keys_and_values_cost(fit: Fit) -> None:
    options = {"method": "merge", "keep": [0.3, 0.5], "finetune_keep": []}
    run = fit(options, make_tuner(), callbacks=[RunSummary()])
    assert run.module.model.prompts.form == "token"
    model = create_model("vit_demo_patch8_32", 4, 4, mode="prefix")
    for entry in _results(run.folder)["budgets"]:
        model.prompts.apply_mask([torch.arange(4) < count for count in entry["kept"]])
        assert entry["macs"] == _macs(model)


def test_plain_prompt_tuning_has_one_row(plain: Run) -> None:
    assert list(_cells(plain.folder)) == ["all prompts trained 24"]


def test_the_interval_is_wilson_s() -> None:
    assert wilson(50, 10) == "23.7 to 76.3"  # Newcombe, Statistics in Medicine 17 (1998)
    assert wilson(100, 10) == "72.2 to 100.0"
    assert wilson(50, 0) == wilson(float("nan"), 10) == ""


def test_a_run_without_a_report_has_no_results(tmp_path: Path) -> None:
    make_trainer(tmp_path, [RunSummary()], max_epochs=1).fit(make_tuner(), datamodule=TinyData())
    assert not (tmp_path / "results.json").exists()


def test_a_broken_fvcore_leaves_out_the_cost_alone(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(fvcore.nn, "FlopCountAnalysis")
    with pytest.warns(UserWarning, match="No cost in the results: .*FlopCountAnalysis"):
        run = fit(callbacks=[RunSummary()])
    assert not any(name.startswith("macs") for name in _results(run.folder))
    printed = " ".join(capsys.readouterr().out.split())
    assert "Condensed to 7 of 24" in printed
    assert str(run.folder) in printed
