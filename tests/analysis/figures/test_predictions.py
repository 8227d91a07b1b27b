import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pcvpt.analysis.figures.predictions import (
    confusion_figure,
    sample_figure,
)


def _texts(figure: Figure) -> list[str]:
    FigureCanvasAgg(figure).draw()
    (axes, *_) = figure.axes
    return [text.get_text() for text in axes.texts]


def test_a_sample_says_what_was_predicted_and_the_truth_where_it_differs() -> None:
    pixels = torch.randint(0, 256, (5, 3, 16, 24), dtype=torch.uint8)
    labels, guesses = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 2, 2, 1, 1])
    figure = sample_figure(pixels, labels, guesses, ("cat", "dog", "$5 bill"), columns=3)
    assert _texts(figure) == [
        "3 of 5 right",
        *("cat", r"\$5 bill", "is dog", r"\$5 bill", "dog", "is cat", "dog"),
    ]
    drawn = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    for image, given in zip(drawn, pixels, strict=True):
        assert np.array_equal(image, given.permute(1, 2, 0).numpy())


def test_a_confusion_matrix_of_few_classes_has_names_and_counts() -> None:
    counts = torch.tensor([[8, 2, 0], [0, 5, 0], [1, 0, 0]])
    figure = confusion_figure(counts, ("round", "square", "a very long name of a class"))
    assert sorted(_texts(figure)) == ["1", "2", "5", "8"]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["round", "square", "a very long name …"]
    assert figure.axes[0].get_title(loc="center") == "81.2 % of 16 images right"
    shares = np.asarray(figure.axes[0].images[0].get_array()) ** 2
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0, 1, 0], [1, 0, 0]], atol=1e-6)


def test_a_confusion_matrix_is_drawn_in_a_run_of_low_precision() -> None:
    torch.set_default_dtype(torch.bfloat16)  # Lightning does so under bf16-true
    try:
        assert _texts(confusion_figure(torch.eye(2).long(), ("a", "b"))) == ["1", "1"]
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_confusion_matrix_of_many_classes_has_neither() -> None:
    classes = 200
    figure = confusion_figure(torch.eye(classes).long() * 3, [str(n) for n in range(classes)])
    assert _texts(figure) == []
    assert len(figure.axes[0].get_xticks()) < 20
