import pytest

from miniature.prepare import Prepared


@pytest.fixture(scope="package")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Miniature data sets that TFDS's own builders prepare, each once for all tests."""
    return Prepared(tmp_path_factory.mktemp("tfds"))
