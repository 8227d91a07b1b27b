"""Pages of experiments say what their results hold."""

import subprocess
import sys
from pathlib import Path

REAL = Path(__file__).parents[2] / "experiments" / "real"


def test_the_tables_of_the_real_images_are_those_of_their_results() -> None:
    done = subprocess.run([sys.executable, str(REAL / "report.py"), "--check"])
    assert done.returncode == 0, "run `python experiments/real/report.py`"
