"""A process leaves its process group before Python shuts down."""

import subprocess
import sys
from pathlib import Path

import pytest

TASKS = Path("/proc/self/task")
SCRIPT = """
import atexit
from pathlib import Path

import torch
import torch.distributed as dist

from pcvpt.training.process_group import leave_group_at_exit

names = lambda: {task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")}
atexit.register(lambda: print(any("gloo" in name for name in names())))  # the last one that runs
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
dist.all_reduce(torch.ones(1))
print(any("gloo" in name for name in names()))
leave_group_at_exit()
"""


@pytest.mark.skipif(not TASKS.is_dir(), reason="no list of this process's threads")
def test_no_thread_of_gloo_is_left_when_python_shuts_down() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
