"""Runs that several tests read, and a short way to make others."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import factories
import pytest
from factories import Run, make_tuner

from pcvpt import PromptCondensation
from pcvpt.callbacks import AdapterWriter, PhaseCheckpoint, RunSummary

Fit = Callable[..., Run]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    return partial(factories.fit, tmp_path)


@pytest.fixture(scope="session")
def two_phases(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs of each phase, with dropout, so that training mode would show in an accuracy."""
    folder = tmp_path_factory.mktemp("two_phases")
    condense = PromptCondensation(prompt_epochs=2, finetune_epochs=2)
    callbacks = [PhaseCheckpoint(), AdapterWriter(), RunSummary()]
    return factories.fit(folder, condense, make_tuner(prompt_dropout=0.3), callbacks=callbacks)


@pytest.fixture(scope="session")
def three_budgets(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three budgets, of which two are fine-tuned, in another order, for one epoch each."""
    folder = tmp_path_factory.mktemp("three_budgets")
    condense = PromptCondensation(
        [0.1, 0.3, 0.5], prompt_epochs=1, finetune_epochs=1, finetune_keep=[0.5, 0.1]
    )
    callbacks = [PhaseCheckpoint(), AdapterWriter(), RunSummary()]
    return factories.fit(folder, condense, make_tuner(prompt_dropout=0.3), callbacks=callbacks)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Plain VPT for two epochs."""
    condense = PromptCondensation(keep=None, prompt_epochs=2, finetune_epochs=3)
    callbacks = [PhaseCheckpoint(), AdapterWriter(), RunSummary()]
    return factories.fit(tmp_path_factory.mktemp("plain"), condense, callbacks=callbacks)
