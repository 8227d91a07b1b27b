"""The classes of a model, which its checkpoint remembers, and data whose classes differ."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from factories import CLASSES, PROMPTS, TinyData, make_trainer, make_tuner, recipe
from PIL import Image

from pcvpt import PromptTuner, UsageError
from pcvpt.data import Item, Splits, eval_transform

RENAMED = ("zebra", *CLASSES[1:])


class Data(TinyData):
    """The images with the labels ``used``, whose classes have ``names`` in order of the names."""

    def __init__(self, names: tuple[str, ...] = CLASSES, used: tuple[int, ...] = (0, 1, 2, 3)):
        super().__init__()
        self.names, self.used = names, used

    def read_splits(self) -> Splits:
        whole, order = super().read_splits(), sorted(self.used, key=lambda k: self.names[k])
        train, val, test = (
            tuple(Item(i.source, order.index(i.label)) for i in items if i.label in order)
            for items in (whole.train, whole.val, whole.val)
        )
        return Splits(train, val, test, tuple(self.names[k] for k in order))


def _trainer(folder: Path) -> lightning.Trainer:
    return make_trainer(folder, [], max_epochs=1, limit_train_batches=2)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[PromptTuner, Path]:
    module, trainer = make_tuner(), _trainer(tmp_path)
    trainer.fit(module, datamodule=Data())
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    return module, tmp_path / "model.ckpt"


def _test(trained: tuple[PromptTuner, Path], data: Data, source: str, stage: str = "test") -> Any:
    module, path = trained
    loads = source == "checkpoint"
    run = getattr(_trainer(path.parent), stage)
    return run(
        make_tuner() if loads else module,
        datamodule=data,
        ckpt_path=path if loads else None,
        verbose=False,
    )


@pytest.mark.parametrize("source", ["checkpoint", "module"])
@pytest.mark.parametrize("stage", ["test", "validate"])
def test_data_with_other_classes_are_refused(
    trained: tuple[PromptTuner, Path], source: str, stage: str
) -> None:
    data = Data(RENAMED)
    with pytest.raises(UsageError, match=r"classes zebra \(.* lack round\); give the classes the"):
        _test(trained, data, source, stage)
    fresh = _trainer(trained[1].parent)
    fresh.fit(make_tuner(), datamodule=data)  # the refusal was of that model alone
    assert fresh.lightning_module.classes.names == ("flat", "square", "tall", "zebra")


@pytest.mark.parametrize("source", ["checkpoint", "module"])
def test_data_with_some_of_the_classes_are_labelled_by_name(
    trained: tuple[PromptTuner, Path], source: str
) -> None:
    data, module = Data(used=(0, 2, 3)), trained[0]
    splits, transform = data.splits, eval_transform(module.input_spec, "crop")
    images = torch.stack([transform(Image.fromarray(item.source)) for item in splits.test])
    with torch.no_grad():
        guesses = module.model.eval()(images).argmax(1).tolist()
    hits = [
        module.class_names[guess] == splits.class_names[item.label]
        for guess, item in zip(guesses, splits.test, strict=True)
    ]
    assert sum(hits) != sum(g == i.label for g, i in zip(guesses, splits.test, strict=True))
    (found,) = _test(trained, data, source)
    assert found["test/accuracy"] == pytest.approx(sum(hits) / len(hits))
    assert data.class_names == ("flat", "round", "square", "tall")


def test_a_checkpoint_without_classes_is_tested_as_before(
    trained: tuple[PromptTuner, Path],
) -> None:
    module, path = trained
    (expected,) = _test(trained, Data(), "checkpoint")
    saved = torch.load(path, weights_only=True)
    del saved["pcvpt"]["classes"]
    torch.save(saved, path)
    renamed = tuple(f"{number} {name}" for number, name in enumerate(sorted(CLASSES)))
    data = Data(tuple(renamed[sorted(CLASSES).index(name)] for name in CLASSES))
    (found,) = _test((module, path), data, "checkpoint")
    assert found == expected


def test_a_module_loaded_without_a_trainer_knows_its_classes(
    trained: tuple[PromptTuner, Path],
) -> None:
    arguments = {"num_classes": 4, "prompt": recipe(), "finetune": recipe(), "num_prompts": PROMPTS}
    loaded = PromptTuner.load_from_checkpoint(
        trained[1], backbone="vit_demo_patch8_32", **arguments
    )
    assert loaded.class_names == ["flat", "round", "square", "tall"]
