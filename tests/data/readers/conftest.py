"""Empty files that stand for images; files that list them are read without decoding."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    apart = "my cat", "ant/0", "ant/1", "bee/0", "bee/1", "deep/bee/1", "..a/b.."
    for name in (*"0123456789", *apart):
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.fixture(scope="module")
def write(root: Path) -> Callable[..., Path]:
    def write(text: str | bytes, name: str = "train") -> Path:
        file = root / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        return file

    return write
