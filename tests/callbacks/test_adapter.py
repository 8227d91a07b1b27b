"""The adapter that a run leaves: which checkpoint it is of, and that nothing else is needed."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pcvpt import PromptCondensation, PromptTuner, load_adapter
from pcvpt.callbacks import AdapterWriter, PhaseCheckpoint
from pcvpt.cli.main import main
from pcvpt.models import PromptedTransformer

Fit = Callable[..., Any]
WRITERS = (PhaseCheckpoint, AdapterWriter)


def _writers() -> list[Any]:
    return [writer() for writer in WRITERS]


def _images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def _logits(model: PromptedTransformer) -> Tensor:
    return model.eval()(_images())


def _of_checkpoint(tuner: Callable[..., PromptTuner], path: Path) -> Tensor:
    """Return what the model of a checkpoint predicts."""
    module = tuner()
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=False)
    return _logits(module.model)


def _written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


class BestOfTheFirstEpoch(PhaseCheckpoint):
    """Holds every later epoch for a worse one, so that best and last differ."""

    def _save(self, trainer: Any, name: str, *args: Any, **options: Any) -> None:  # type: ignore[override]
        if name.endswith("-best") and trainer.current_epoch % 2:
            return
        PhaseCheckpoint._save(trainer, name, *args, **options)


def test_a_run_leaves_the_adapter_of_its_condensed_best(
    fit: Fit, tuner: Any, tmp_path: Path
) -> None:
    _, module, _ = fit(callbacks=[BestOfTheFirstEpoch(), AdapterWriter()])
    assert _written(tmp_path) == ["adapter.safetensors"]
    model = load_adapter(tmp_path / "adapter.safetensors")
    best = _of_checkpoint(tuner, tmp_path / "checkpoints" / "finetune-best.ckpt")
    assert torch.equal(_logits(model), best)
    assert not torch.equal(_logits(module.model), best)
    assert sum(model.prompts.counts()) == sum(module.model.prompts.counts()) == 7
    assert model.adapter.provenance["checkpoint"] == "finetune-best"


def test_the_model_that_was_trained_stays_as_it_was(fit: Fit, tuner: Any, tmp_path: Path) -> None:
    _, module, _ = fit(callbacks=[BestOfTheFirstEpoch(), AdapterWriter()])
    last = _of_checkpoint(tuner, tmp_path / "checkpoints" / "finetune-last.ckpt")
    assert torch.equal(_logits(module.model), last)


def test_without_a_best_it_is_of_the_last(fit: Fit, tuner: Any, task: Any, tmp_path: Path) -> None:
    data = task()
    data.held_out = False
    _, module, _ = fit(data=data, callbacks=_writers())
    model = load_adapter(tmp_path / "adapter.safetensors")
    assert model.adapter.provenance["checkpoint"] == "finetune-last"
    assert torch.equal(_logits(model), _logits(module.model))


def test_plain_vpt_has_the_best_of_prompt_training(fit: Fit, tuner: Any, tmp_path: Path) -> None:
    condense = PromptCondensation(keep=None, prompt_epochs=2)
    fit(condense, callbacks=_writers())
    model = load_adapter(tmp_path / "adapter.safetensors")
    best = _of_checkpoint(tuner, tmp_path / "checkpoints" / "prompt-best.ckpt")
    assert torch.equal(_logits(model), best)
    assert set(model.prompts.counts()) == {4}


def test_each_budget_has_an_adapter_of_its_own(fit: Fit, tuner: Any, tmp_path: Path) -> None:
    condense = PromptCondensation(
        keep=[0.5, 0.25, 0.3], finetune_keep=[0.5, 0.25], prompt_epochs=1, finetune_epochs=1
    )
    fit(condense, callbacks=_writers())
    assert _written(tmp_path) == ["adapter_0.25.safetensors", "adapter_0.5.safetensors"]
    for budget, kept in ("0.5", 12), ("0.25", 6):
        model = load_adapter(tmp_path / f"adapter_{budget}.safetensors")
        assert sum(model.prompts.counts()) == kept
        checkpoint = tmp_path / "checkpoints" / f"finetune_{budget}-best.ckpt"
        assert torch.equal(_logits(model), _of_checkpoint(tuner, checkpoint))
        entries = {str(entry["keep"]): entry for entry in condense.report["budgets"]}
        provenance = model.adapter.provenance
        assert provenance["accuracy_finetuned"] == entries[budget]["accuracy_finetuned"]
        assert provenance["budget"] == budget


def test_without_checkpoints_it_is_what_the_model_ends_with(fit: Fit, tmp_path: Path) -> None:
    _, module, _ = fit(callbacks=[AdapterWriter()])
    model = load_adapter(tmp_path / "adapter.safetensors")
    assert torch.equal(_logits(model), _logits(module.model))
    assert model.adapter.provenance["checkpoint"] is None


def test_the_adapter_knows_classes_images_and_run(fit: Fit, task: Any, tmp_path: Path) -> None:
    condense = PromptCondensation(prompt_epochs=1, finetune_epochs=1)
    data = task(protocol="vpt", resize="squash")
    fit(condense, data=data, callbacks=_writers(), seed=5)
    adapter = load_adapter(tmp_path / "adapter.safetensors").adapter
    assert adapter.class_names == ("round", "square", "flat", "tall")
    said = adapter.provenance
    assert (said["seed"], said["run"], said["epochs"]) == (5, tmp_path.name, 2)
    assert said["data"]["source"] == "TinyTask"
    assert said["accuracy_before"] == condense.report["accuracy_before"]
    pixels, _ = next(iter(data.val_dataloader()))
    images = [Image.fromarray(item.source) for item in data.splits.val[: len(pixels)]]
    prepared = torch.stack([adapter.preprocessing(image) for image in images])
    assert torch.equal(prepared, data.preprocessing.normalized(pixels))


def test_it_says_how_to_load_it(fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(PromptCondensation(keep=None, prompt_epochs=1), callbacks=_writers())
    (line,) = [m for m in caplog.messages if "load_adapter" in m]
    call = line.split("pcvpt.", 1)[1]
    model = eval(call, {"load_adapter": load_adapter})
    assert isinstance(model, PromptedTransformer)


def test_a_model_that_no_adapter_can_describe_ends_its_run_all_the_same(
    fit: Fit, tuner: Any, tmp_path: Path
) -> None:
    module = tuner()
    module.model.blueprint = None
    with pytest.warns(UserWarning, match="No adapter: .*create_model"):
        fit(PromptCondensation(keep=None, prompt_epochs=1), module, callbacks=_writers())
    assert _written(tmp_path) == []


def test_a_resumed_run_replaces_its_adapter(fit: Fit, tuner: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"of an earlier start")
    fit(PromptCondensation(keep=None, prompt_epochs=1), callbacks=_writers())
    resumed = PromptCondensation(keep=None, prompt_epochs=2)
    checkpoint = tmp_path / "checkpoints" / "prompt-last.ckpt"
    fit(resumed, callbacks=_writers(), ckpt_path=checkpoint)
    model = load_adapter(tmp_path / "adapter.safetensors")
    assert model.adapter.provenance["epochs"] == 2


@pytest.mark.slow
def test_the_command_writes_an_adapter_before_the_run_counts_as_finished(tmp_path: Path) -> None:
    options = ["--condense.prompt_epochs=1", "--condense.finetune_epochs=1"]
    options += ["--data.init_args.num_workers=0", "--output_dir", str(tmp_path)]
    main(["fit", "--config", "demo.yaml", *options])
    (path,) = tmp_path.rglob("adapter.safetensors")
    results = json.loads((path.parent / "results.json").read_text())
    assert path.stat().st_mtime_ns <= (path.parent / "results.json").stat().st_mtime_ns
    said = load_adapter(path).adapter.provenance
    assert said["accuracy_finetuned"] == results["accuracy_finetuned"]
    assert said["run"] == path.parent.name
