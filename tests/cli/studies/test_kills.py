"""Kill the driver or a run of a sweep again and again: its table is that of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ..conftest import PRUNED, SMALL
from .test_engine import options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def begin(study: Path, runs: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "pcvpt", "sweep", str(study), "--sequential", "--tries", "30"]
    return subprocess.Popen(
        [*command, "--output_dir", str(runs)], stdout=subprocess.DEVNULL, start_new_session=True
    )


def table(study: Path, runs: Path) -> Any:
    command = [sys.executable, "-m", "pcvpt", "table", str(study), "--format", "json"]
    told = subprocess.run([*command, "--output_dir", str(runs)], capture_output=True, check=True)
    return json.loads(told.stdout)


def of_session(driver: int) -> list[int]:
    """Return the driver and the processes that it has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == driver:
            found.append(int(entry.parent.name))
    return sorted(found)


@pytest.mark.skipif(sys.platform != "linux", reason="a killed driver ends its runs on Linux alone")
def test_twenty_kills_do_not_change_the_table(study: Any, tmp_path: Path) -> None:
    made = study(
        configs=["demo.yaml"],
        methods={
            "linear probe": {"configs": ["linear.yaml"]},
            "all prompts": {"options": {"condense.keep": None}},
            "condensed": {
                "from": "all prompts",
                "options": dict(options(*PRUNED)),
                "stages": ["condensed", "finetuned"],
            },
        },
        options=dict(options(*SMALL)),
        seeds=[0, 1],
    )
    begun = time.monotonic()
    assert begin(made.file, tmp_path / "once").wait() == 0
    seconds = time.monotonic() - begun
    choose, kills = random.Random(0), 0
    while kills < 20:
        driver = begin(made.file, tmp_path / "killed")
        time.sleep(choose.uniform(0.05, 0.4) * seconds)
        if driver.poll() is not None:
            break
        os.kill(choose.choice(of_session(driver.pid)), signal.SIGKILL)
        kills += 1
        time.sleep(choose.uniform(0, 0.05) * seconds)
        if driver.poll() is None:  # the run was killed; the driver follows
            os.kill(driver.pid, signal.SIGKILL)
            kills += 1
        driver.wait()
    assert kills >= 5
    assert begin(made.file, tmp_path / "killed").wait() == 0
    assert table(made.file, tmp_path / "killed") == table(made.file, tmp_path / "once")
    assert "missing" not in json.dumps(table(made.file, tmp_path / "once"))
