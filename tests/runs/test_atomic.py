import shutil
from pathlib import Path

import pytest

from pcvpt.errors import UsageError
from pcvpt.runs import atomic
from pcvpt.runs.atomic import check_output


def test_a_disk_that_is_nearly_full_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=atomic.LEAST_FREE - 1)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"new: 64 MB are free"):
        check_output(tmp_path / "new")


def test_an_output_folder_that_will_do_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "kept").write_text("kept")
    check_output(tmp_path / "runs")
    check_output(tmp_path / "runs" / "a" / "new")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["kept"]


def test_a_name_too_long_for_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        check_output(tmp_path / ("x" * 300))
