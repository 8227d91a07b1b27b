"""Runs that several tests read, and a short way to make others."""

from functools import partial
from pathlib import Path
from typing import Any

import factories
import pytest
from factories import Fit, Run, make_tuner, recipe

from pcvpt.callbacks import AdapterWriter, PhaseCheckpoint, RunSummary


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    return partial(factories.fit, tmp_path)


def _finished(make: pytest.TempPathFactory, name: str, condense: dict[str, Any]) -> Run:
    """Train with dropout, so that training mode would show in an accuracy."""
    module = make_tuner(prompt_dropout=0.3, finetune=recipe(base_lr=0.25, warmup_epochs=0.4))
    callbacks = [PhaseCheckpoint(), AdapterWriter(), RunSummary()]
    return factories.fit(make.mktemp(name), condense, module, callbacks=callbacks)


@pytest.fixture(scope="session")
def two_phases(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs of each phase."""
    return _finished(tmp_path_factory, "two", {"prompt_epochs": 2, "finetune_epochs": 2})


@pytest.fixture(scope="session")
def three_budgets(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three budgets, of which two are fine-tuned, in another order, for one epoch each."""
    return _finished(tmp_path_factory, "3", {"keep": [0.1, 0.3, 0.5], "finetune_keep": [0.5, 0.1]})


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Plain VPT for two epochs."""
    condense = {"keep": None, "prompt_epochs": 2, "finetune_epochs": 3}
    return _finished(tmp_path_factory, "plain", condense)
