import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from pcvpt.data.samplers import IGNORED
from pcvpt.training.metrics import MeanOverClasses, MeanOverImages

CLASSES = 6


def _batches(sizes: tuple[int, ...] = (7, 1, 12)) -> list[tuple[Tensor, Tensor]]:
    """Return guesses and labels: class 4 is only guessed, class 5 is nowhere; some are padding."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for size in sizes:
        guesses = torch.randint(0, 5, (size,), generator=generator)
        labels = torch.randint(0, 4, (size,), generator=generator)
        labels[torch.rand(size, generator=generator) < 0.3] = IGNORED
        batches.append((guesses, labels))
    return [*batches, (torch.tensor([4, 1]), torch.tensor([0, IGNORED]))]


@pytest.mark.parametrize("padded", [False, True])
def test_the_mean_over_classes_is_the_macro_average(padded: bool) -> None:
    ours = MeanOverClasses(CLASSES)
    theirs = MulticlassAccuracy(CLASSES, average="macro", ignore_index=IGNORED)
    padding = [(torch.tensor([3, 5]), torch.full((2,), IGNORED))]
    for guesses, labels in _batches() + padding * padded:
        ours.update(guesses, labels)
        theirs.update(guesses, labels)
    torch.testing.assert_close(ours.compute(), theirs.compute())
    assert float(ours.compute()) != pytest.approx(float((ours.hits / ours.images).nanmean()))


def test_a_mean_over_images_weighs_batches_by_their_images() -> None:
    metric = MeanOverImages()
    metric.update(torch.tensor(6.0), torch.tensor(3))
    metric.update(torch.tensor(0.0), torch.tensor(0))  # nothing but padding
    metric.update(torch.tensor(1.0), torch.tensor(1))
    assert float(metric.compute()) == 7 / 4


def test_hits_are_counted_exactly() -> None:
    metric = MeanOverImages()
    for hits in 2**24, 1, 1:  # float32 would lose the last two
        metric.update(torch.tensor(hits), torch.tensor(2**24))
    assert metric.total.item() == 2**24 + 2


def test_a_model_in_half_precision_sums_its_losses_in_full() -> None:
    metric = MeanOverImages()
    torch.nn.ModuleDict({"loss": metric}).to(torch.bfloat16)
    for _ in range(600):  # in bfloat16 the sum would stay at 256
        metric.update(torch.tensor(1.0), torch.tensor(1))
    assert float(metric.compute()) == 1.0


def test_a_reset_forgets_everything() -> None:
    mean, classes = MeanOverImages(), MeanOverClasses(CLASSES)
    for guesses, labels in _batches():
        classes.update(guesses, labels)
        mean.update(torch.tensor(5.0), torch.tensor(1))
    mean.reset()
    classes.reset()
    mean.update(torch.tensor(2.0), torch.tensor(1))
    classes.update(torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert float(mean.compute()) == 2
    assert float(classes.compute()) == 0.5
