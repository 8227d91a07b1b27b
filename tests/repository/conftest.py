import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the modules of ``benchmarks/``, imported as its commands import them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    class Modules(SimpleNamespace):
        def __getattr__(self, name: str) -> Any:
            return importlib.import_module(name)

    return Modules()
