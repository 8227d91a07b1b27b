"""Which settings a search tries: all, some at random, or those that Optuna proposes."""

import itertools
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from pcvpt.errors import UsageError

Options = tuple[tuple[str, Any], ...]
"""Options of ``pcvpt fit`` without their ``--``, with their values."""

SAMPLERS = ("grid", "random", "tpe")


@dataclass(frozen=True)
class Search:
    """A search among the combinations of ``values``.

    The sampler "grid" tries all combinations, "random" ``trials`` of them, and "tpe" has Optuna's
    tree-structured Parzen estimator propose each from the results of those before.
    """

    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # to choose from, by option
    sampler: str = "grid"
    trials: int | None = None  # number of combinations that are tried; None for all
    seed: int = 0  # of the runs, and of the sampler
    options: Options = ()  # of the candidates, which the later runs do not have
    grace: int | None = None  # epochs before candidates are stopped early; None lets all end

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UsageError(f"search: sampler {self.sampler}; choose of {', '.join(SAMPLERS)}")
        if (self.sampler == "grid") != (self.trials is None):
            raise UsageError("search: trials goes with sampler random or tpe, which need it")
        if self.trials is not None and not 1 <= self.trials <= len(self.grid):
            most = f"the lists have {len(self.grid)} combinations"
            raise UsageError(f"search: trials is {self.trials}; {most}")
        if self.grace is not None and (type(self.grace) is not int or self.grace < 1):
            raise UsageError(f"search: grace is {self.grace}; give a number of epochs, at least 1")
        if self.sampler == "tpe" and find_spec("optuna") is None:
            raise UsageError("search: sampler tpe needs Optuna; pip install 'pcvpt[sweep]'")

    @property
    def grid(self) -> list[Options]:
        """All combinations; none where nothing is searched."""
        return combinations(self.values) if self.values else []

    @property
    def planned(self) -> int:
        """Number of combinations that will be tried."""
        return self.trials or len(self.grid)

    def tried(self, accuracy: Callable[[Options], float | None]) -> list[Options]:
        """Return what is tried, as far as it is known from ``accuracy``, None of a missing result.

        It is a function of the results, so that a search that was interrupted goes on as it would.
        """
        if self.sampler == "grid":
            return self.grid
        if self.sampler == "random":
            return random.Random(self.seed).sample(self.grid, self.planned)
        return self._proposed(accuracy)

    def _proposed(self, accuracy: Callable[[Options], float | None]) -> list[Options]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=self.seed, multivariate=True)
        study = optuna.create_study(sampler=sampler, direction="maximize")
        found: dict[Options, float] = {}
        while len(found) < self.planned:
            trial = study.ask()
            tried = tuple((k, trial.suggest_categorical(k, v)) for k, v in self.values.items())
            value = found.get(tried)
            value = accuracy(tried) if value is None else value
            if value is None:
                return [*found, tried]
            if tried in found and len(study.trials) > 20 * self.planned:
                break  # it proposes nothing new
            found[tried] = value
            study.tell(trial, value)
        return list(found)


def combinations(values: Mapping[str, Sequence[Any]]) -> list[Options]:
    """Return each combination of ``values``."""
    return [tuple(zip(values, of, strict=True)) for of in itertools.product(*values.values())]
