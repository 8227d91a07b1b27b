import os
import subprocess
import sys
from pathlib import Path

from pcvpt.runs.lock import RunLock

_TAKE = "import sys; from pathlib import Path; from pcvpt.runs.lock import RunLock; "
_TAKE += "print(RunLock().take(Path(sys.argv[1])))"


def _other_process(run: Path) -> str:
    command = [sys.executable, "-c", _TAKE, str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_one_process_at_a_time_has_a_run(tmp_path: Path) -> None:
    lock = RunLock()
    assert lock.take(tmp_path) is None
    assert f"process {os.getpid()} on " in _other_process(tmp_path)
    lock.release()
    assert _other_process(tmp_path) == "None"
    assert lock.take(tmp_path) is None  # the other one has ended
    lock.release()
