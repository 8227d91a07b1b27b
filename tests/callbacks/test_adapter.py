"""The adapter that a run leaves: which checkpoint it is of, and that nothing else is needed."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import CLASSES, Fit, Run, TinyData, make_tuner, scripted
from PIL import Image
from torch import Tensor

from pcvpt import load_adapter
from pcvpt.callbacks import AdapterWriter, PhaseCheckpoint
from pcvpt.cli.main import main
from pcvpt.models import PromptedTransformer

PLAIN = {"keep": None}


@torch.no_grad()
def _logits(model: PromptedTransformer) -> Tensor:
    return model.eval()(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3)))


def _of_checkpoint(run: Run, name: str) -> Tensor:
    module = make_tuner()
    module.load_state_dict(run.state(name), strict=False)
    return _logits(module.model)


def _adapters(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


def test_an_adapter_holds_the_best_and_leaves_the_trained_model_as_it_was(fit: Fit) -> None:
    module, callbacks = scripted(3.0, 2.0, 1.0), [PhaseCheckpoint("scripted"), AdapterWriter()]
    run = fit({"finetune_epochs": 2}, module, callbacks=callbacks)
    assert _adapters(run.folder) == ["adapter.safetensors"]
    model = load_adapter(run.folder / "adapter.safetensors")
    best, last = _of_checkpoint(run, "finetune-best"), _of_checkpoint(run, "finetune-last")
    assert not torch.equal(best, last)
    assert torch.equal(_logits(model), best)
    assert torch.equal(_logits(module.model), last)
    assert sum(model.prompts.counts()) == sum(module.model.prompts.counts()) == 7
    assert model.adapter.provenance["checkpoint"] == "finetune-best"


@pytest.mark.parametrize(("checkpoints", "name"), [(True, "finetune-last"), (False, None)])
def test_without_a_best_it_is_the_end_of_the_run(
    fit: Fit, checkpoints: bool, name: str | None
) -> None:
    data = TinyData()
    data.held_out = False
    callbacks = [*([PhaseCheckpoint()] if checkpoints else []), AdapterWriter()]
    run = fit(data=data, callbacks=callbacks)
    model = load_adapter(run.folder / "adapter.safetensors")
    assert model.adapter.provenance["checkpoint"] == name
    assert torch.equal(_logits(model), _logits(run.module.model))


def test_plain_vpt_has_the_best_of_prompt_training(plain: Run) -> None:
    model = load_adapter(plain.folder / "adapter.safetensors")
    assert torch.equal(_logits(model), _of_checkpoint(plain, "prompt-best"))
    assert set(model.prompts.counts()) == {4}


def test_each_fine_tuned_budget_has_an_adapter(three_budgets: Run) -> None:
    run = three_budgets
    assert _adapters(run.folder) == ["adapter_0.1.safetensors", "adapter_0.5.safetensors"]
    entries = {str(entry["keep"]): entry for entry in run.report["budgets"]}
    for budget, kept in ("0.5", 12), ("0.1", 2):
        model = load_adapter(run.folder / f"adapter_{budget}.safetensors")
        assert sum(model.prompts.counts()) == kept
        assert torch.equal(_logits(model), _of_checkpoint(run, f"finetune_{budget}-best"))
        provenance = model.adapter.provenance
        assert provenance["accuracy_finetuned"] == entries[budget]["accuracy_finetuned"]
        assert provenance["budget"] == budget


def test_an_adapter_has_classes_images_and_run_and_a_call_that_loads_it(
    fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"of an earlier start")
    data = TinyData(protocol="vpt", resize="squash")
    with caplog.at_level(logging.INFO):
        run = fit(PLAIN, data=data, callbacks=[AdapterWriter()], seed=5)
    (line,) = [message for message in caplog.messages if "load_adapter" in message]
    call = line.split("pcvpt.", 1)[1]
    adapter: Any = eval(call, {"load_adapter": load_adapter}).adapter
    assert adapter.class_names == CLASSES
    found = adapter.provenance
    assert (found["seed"], found["run"], found["epochs"]) == (5, run.folder.name, 1)
    assert found["data"]["source"] == "TinyData"
    assert found["accuracy_before"] == run.report["accuracy_before"]
    pixels, _ = next(iter(data.val_dataloader()))
    images = [Image.fromarray(item.source) for item in data.splits.val[: len(pixels)]]
    prepared = torch.stack([adapter.preprocessing(image) for image in images])
    assert torch.equal(prepared, data.preprocessing.normalized(pixels))


def test_a_model_that_no_adapter_can_describe_ends_its_run_all_the_same(fit: Fit) -> None:
    module = make_tuner()
    module.model.blueprint = None
    with pytest.warns(UserWarning, match="No adapter: .*create_model"):
        run = fit(PLAIN, module, callbacks=[AdapterWriter()])
    assert _adapters(run.folder) == []


@pytest.mark.slow
def test_the_command_writes_an_adapter_before_the_run_counts_as_finished(tmp_path: Path) -> None:
    options = ["--condense.prompt_epochs=1", "--condense.finetune_epochs=1"]
    options += ["--data.init_args.num_workers=0", "--output_dir", str(tmp_path)]
    main(["fit", "--config", "demo.yaml", *options])
    (path,) = tmp_path.rglob("adapter.safetensors")
    results = json.loads((path.parent / "results.json").read_text())
    assert path.stat().st_mtime_ns <= (path.parent / "results.json").stat().st_mtime_ns
    provenance = load_adapter(path).adapter.provenance
    assert provenance["accuracy_finetuned"] == results["accuracy_finetuned"]
    assert provenance["run"] == path.parent.name
