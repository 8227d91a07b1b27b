import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from pcvpt.data.samplers import IGNORED
from pcvpt.training.metrics import MeanOverClasses, MeanOverImages

CLASSES = 6


def _batches() -> list[tuple[Tensor, Tensor]]:
    """Return guesses and labels: class 4 is only guessed, class 5 is nowhere; some are padding."""
    batches = []
    for size in 7, 1, 12:
        guesses, labels = torch.randint(0, 5, (size,)), torch.randint(0, 4, (size,))
        labels[torch.rand(size) < 0.3] = IGNORED
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


@pytest.mark.parametrize(
    "updates",
    [
        [(6.0, 3), (0.0, 0), (1.0, 1)],  # the second is nothing but padding
        [(2**24, 2**24), (1, 2), (1, 3)],  # float32 would lose the last two
        [(1.0, 1)] * 600,  # in bfloat16 the sum would stay at 256
    ],
)
def test_a_mean_over_images_sums_exactly_even_in_a_model_in_half_precision(
    updates: list[tuple[float, int]],
) -> None:
    metric = MeanOverImages()
    torch.nn.ModuleDict({"loss": metric}).to(torch.bfloat16)
    for total, images in updates:
        metric.update(torch.tensor(total), torch.tensor(images))
    assert metric.total.item() == sum(total for total, _ in updates)
    expected = metric.total.item() / sum(images for _, images in updates)
    assert float(metric.compute()) == pytest.approx(expected)
