import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from factories import Run, TinyData, Waits, fit, make_trainer, make_tuner
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PromptTuner, UsageError
from pcvpt.callbacks import RunSummary
from pcvpt.data.samplers import IGNORED
from pcvpt.training.evaluation import accuracy, answered
from pcvpt.training.metrics import LastAnswers


class Measure(lightning.Callback):
    def on_train_end(self, trainer: lightning.Trainer, pl_module: PromptTuner) -> None:
        pl_module.last_answers = LastAnswers(pl_module.model)
        pl_module.train()
        with Waits() as mode:
            self.value = accuracy(trainer, pl_module)
        self.waits = mode.found
        self.training = pl_module.model.training


def _fit(folder: Path, labels: Tensor | None) -> tuple[Measure, PromptTuner, Tensor]:
    module, measure = make_tuner(prompt_dropout=0.5), Measure()
    train = TensorDataset(torch.randn(8, 3, 32, 32), torch.arange(8) % 3)
    images = torch.randn(0 if labels is None else len(labels), 3, 32, 32)
    val = None if labels is None else DataLoader(TensorDataset(images, labels), batch_size=4)
    trainer = make_trainer(folder, [measure], max_epochs=1, limit_val_batches=None if val else 0)
    trainer.fit(module, DataLoader(train, batch_size=4), val)
    return measure, module, images


def _fit_with_val(folder: Path, **options: Any) -> Run:
    options = {"limit_train_batches": 1, **options}
    return fit(folder, data=TinyData(batch_size=4), callbacks=[RunSummary()], **options)


def test_a_limit_of_validation_holds_for_every_accuracy_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _fit_with_val(tmp_path, limit_val_batches=1)
    names = [f"accuracy_{stage}" for stage in ("before", "masked", "finetuned")]
    assert {run.report[name] % 25 for name in names} == {0}  # of four images
    logged = float(run.trainer.callback_metrics["val/accuracy"])
    assert run.report["accuracy_finetuned"] == pytest.approx(100 * logged)
    assert json.loads((tmp_path / "results.json").read_text())["validated"] == "1 of 4 batches"
    assert "Result on 1 of 4 batches of the validation" in capsys.readouterr().out


def test_without_a_limit_the_report_is_of_the_whole_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _fit_with_val(tmp_path)
    assert "validated" not in run.report
    assert "Result on the validation images" in capsys.readouterr().out


def test_accuracy_is_measured_before_the_first_validation_of_lightning(tmp_path: Path) -> None:
    run = _fit_with_val(tmp_path, check_val_every_n_epoch=9)
    for stage in ("before", "masked", "finetuned"):
        assert 0 <= run.report[f"accuracy_{stage}"] <= 100


@pytest.mark.parametrize("option", [{"patience": 1}, {"max_drop": 1.0, "keep": None}])
def test_nothing_is_chosen_by_val_where_no_image_of_it_is_read(
    option: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="limit_val_batches=0"):
        fit(tmp_path, option, limit_val_batches=0)


@pytest.mark.parametrize("padding", [0, 3])
def test_accuracy_is_that_of_the_whole_split_without_padding(tmp_path: Path, padding: int) -> None:
    labels = torch.cat([torch.arange(10) % 3, torch.full((padding,), IGNORED)])
    measure, module, images = _fit(tmp_path, labels)
    with torch.no_grad():
        hits = module.model.eval()(images[:10]).argmax(1) == labels[:10]
    assert measure.value == pytest.approx(100 * float(hits.float().mean()))
    assert measure.training  # as it was before


def test_accuracy_reads_no_number_in_any_batch(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1, 2, IGNORED])
    short, *_ = _fit(tmp_path, labels)
    long, *_ = _fit(tmp_path, labels.repeat(3))
    assert long.waits == short.waits  # those of the loader and of restoring, once for each pass


def test_without_a_validation_split_there_is_no_accuracy(tmp_path: Path) -> None:
    measure, *_ = _fit(tmp_path, None)
    assert measure.value != measure.value


class Again(lightning.Callback):
    """Measures at the end of the run: as it is, and after ``change``."""

    def __init__(self, change: Callable[[PromptTuner], object]) -> None:
        self.change, self.passes = change, list[int]()
        self.values, self.fresh = list[float](), list[float]()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: PromptTuner) -> None:
        calls = list[object]()
        hook = pl_module.model.blocks[0].register_forward_hook(lambda *call: calls.append(call))
        for change in (lambda _: None, self.change):
            change(pl_module)
            calls.clear()
            self.values.append(accuracy(trainer, pl_module))
            self.passes.append(len(calls))
            calls.clear()
            assert accuracy(trainer, pl_module) == self.values[-1]
            assert not calls  # a pass of its own is known, too
            pl_module.last_answers = LastAnswers(pl_module.model)
            self.fresh.append(accuracy(trainer, pl_module))
        hook.remove()


@torch.no_grad()
def _new_head(module: PromptTuner) -> None:
    module.model.get_classifier().weight.normal_()


def _mask(module: PromptTuner) -> None:
    bank = module.model.prompts
    bank.apply_mask(list(torch.zeros_like(bank.keep)))


CHANGES = {
    "head": _new_head,
    "mask": _mask,
    "prompts": lambda module: module.model.prompts.restore(
        [torch.randn_like(values) for values in module.model.prompts.snapshot()]
    ),
    "form": lambda module: module.model.use_keys_values(),
    "checkpoint": lambda module: module.load_state_dict(
        {name: values + 1 for name, values in module.state_dict().items() if "head" in name},
        strict=False,
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_last_validation_is_taken_until_the_model_changes(
    change: Callable[[PromptTuner], object], tmp_path: Path
) -> None:
    again = Again(change)
    fit(tmp_path, {"keep": None}, data=TinyData(batch_size=4), callbacks=[again])
    assert again.passes == [0, 4]  # of four batches
    assert again.values == again.fresh


def test_a_validation_of_some_batches_is_not_that_of_all(tmp_path: Path) -> None:
    run = fit(tmp_path, {"keep": None}, data=TinyData(batch_size=4))
    module = run.module
    assert len(answered(run.trainer, module)) == 4
    del module.last_answers.batches[2:]
    assert len(answered(run.trainer, module)) == 4
