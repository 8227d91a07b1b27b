import torch

from pcvpt.callbacks.tensorboard.projector import thumbnails
from pcvpt.callbacks.tensorboard.texts import confusions_text


def test_confusions_are_sorted_by_the_number_of_their_images() -> None:
    counts = torch.tensor([[9, 1, 0], [3, 1, 0], [0, 2, 6]])
    rows = confusions_text(counts, ("a", "b", "c")).splitlines()[2:]
    assert rows == ["| b | a | 3 | 75.0 % |", "| c | b | 2 | 25.0 % |", "| a | b | 1 | 10.0 % |"]
    assert confusions_text(counts, ("a", "b", "c"), most=1).splitlines()[2:] == rows[:1]
    assert "|" not in confusions_text(torch.eye(3).long(), ("a", "b", "c"))


def test_thumbnails_lie_row_by_row_on_a_square_sheet() -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    sheet = thumbnails(colours[:, :, None, None].expand(-1, -1, 64, 48), side=8)
    assert sheet.shape == (16, 16, 3)
    for row, column, colour in (0, 0, [255, 0, 0]), (0, 8, [0, 255, 0]), (8, 0, [0, 0, 255]):
        assert (sheet[row : row + 8, column : column + 8] == colour).all()
    assert (sheet[8:, 8:] == 255).all()
