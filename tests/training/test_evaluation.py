from pathlib import Path

import lightning
import pytest
import torch
from factories import Waits, make_trainer, make_tuner
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PromptTuner
from pcvpt.data.samplers import IGNORED
from pcvpt.training.evaluation import accuracy


class Measure(lightning.Callback):
    def on_train_end(self, trainer: lightning.Trainer, pl_module: PromptTuner) -> None:
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
    trainer = make_trainer(folder, [measure], max_epochs=1, limit_val_batches=1 if val else 0)
    trainer.fit(module, DataLoader(train, batch_size=4), val)
    return measure, module, images


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
