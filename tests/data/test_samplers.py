import pytest

from pcvpt.data.samplers import PADDING, EpochSampler, OnceSampler


def _epoch(epoch: int, world: int = 1, rank: int = 0) -> list[tuple[int, int]]:
    sampler = EpochSampler(range(8), world, rank, seed=5)  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_orders_of_epochs_are_those_of_earlier_versions() -> None:
    assert [index for _, index in _epoch(0)] == [3, 6, 0, 2, 1, 4, 5, 7]
    assert _epoch(3) == [(3, index) for index in (3, 6, 5, 7, 2, 1, 4, 0)]


def test_processes_take_turns_in_one_order() -> None:
    assert _epoch(3, world=2, rank=0) == _epoch(3)[::2]
    assert _epoch(3, world=2, rank=1) == _epoch(3)[1::2]


def test_an_epoch_may_begin_within() -> None:
    sampler = EpochSampler(range(8), 1, 0, seed=5)  # type: ignore[arg-type]
    sampler.begin(3, start=6)
    assert list(sampler) == [(3, 4), (3, 0)]
    assert len(list(sampler)) == 8


@pytest.mark.parametrize("world", [1, 2, 3, 5, 20])
def test_each_index_is_evaluated_once_and_all_processes_have_as_many(world: int) -> None:
    images = range(16)
    shares = [list(OnceSampler(images, world, rank, shuffle=False)) for rank in range(world)]  # type: ignore[arg-type]
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for i in share if i != PADDING) == list(images)
