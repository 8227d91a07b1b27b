"""What every test shares: one thread per process and a fixed seed."""

import os

# Before torch is imported, and inherited by processes that tests start: the tests run several at a
# time, and sums come out the same bits only with the same number of threads.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    # A run on several processes leaves variables by which the next one would take itself for one
    # of several, and wait for the others.
    with patch.dict(os.environ):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["deep", "shallow"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["prefix", "tokens"])
def execution(request: pytest.FixtureRequest) -> str:
    return str(request.param)
