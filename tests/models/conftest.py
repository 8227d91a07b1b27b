"""Every test that asks for `backbone` runs on each row of the table of backbones."""

import pytest

from miniature.backbones import BACKBONES, COMMON


@pytest.fixture(
    params=[
        name if name in COMMON else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES
    ]
)
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)
