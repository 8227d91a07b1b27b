import torch

from pcvpt.analysis.prompt_similarity import prompt_norms, prompt_similarity
from pcvpt.models import PromptBank


def _keep(bank: PromptBank, *dropped: tuple[int, int]) -> None:
    keep = torch.ones_like(bank.keep)
    for place in dropped:
        keep[place] = False
    bank.apply_mask(list(keep))


def test_similarity_is_the_cosine_of_kept_prompts_block_by_block() -> None:
    bank = PromptBank(2, 3, [8] * 2, 0.5)
    _keep(bank, (0, 1), (1, 0))
    cosines, layers = prompt_similarity(bank)
    assert layers.tolist() == [0, 0, 1, 1]
    values = bank.values.detach()
    kept = [values[0, 0], values[0, 2], values[1, 1], values[1, 2]]
    for i, first in enumerate(kept):
        for j, second in enumerate(kept):
            expected = torch.cosine_similarity(first, second, dim=0)
            torch.testing.assert_close(cosines[i, j], expected)


def test_near_copies_stand_beside_each_other() -> None:
    bank = PromptBank(2, 6, [8] * 2, 0.5)
    kinds = torch.eye(8)[:3].repeat(2, 1)  # a b c a b c
    bank.values.data[:] = kinds + 0.01 * torch.randn(2, 6, 8)
    cosines, layers = prompt_similarity(bank)
    assert layers.tolist() == [0] * 6 + [1] * 6
    for first in range(0, 12, 2):
        assert cosines[first, first + 1] > 0.9


def test_prompts_of_different_widths_are_not_compared() -> None:
    bank = PromptBank(3, 2, [4, 4, 8], 0.5)
    cosines, layers = prompt_similarity(bank)
    apart = (layers[:, None] == 2) != (layers == 2)
    assert torch.equal(cosines.isnan(), apart)


def test_of_many_prompts_some_of_every_block_stand_for_all() -> None:
    bank = PromptBank(4, 50, [8] * 4, 0.5)
    cosines, layers = prompt_similarity(bank, most=20)
    assert cosines.shape == (20, 20)
    assert layers.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5


def test_norms_are_means_over_the_kept_prompts() -> None:
    bank = PromptBank(3, 2, [4, 4, 8], 0.5)
    _keep(bank, (0, 0), (1, 0), (1, 1))
    norms = prompt_norms(bank)
    torch.testing.assert_close(norms[0], bank.layer_values(0)[1].norm())
    assert norms[1].isnan()
    torch.testing.assert_close(norms[2], bank.layer_values(2).norm(dim=1).mean())
