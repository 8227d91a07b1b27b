import subprocess
import sys

import pytest

# In a new process, because the setting is for the process as a whole.
_FAULTS = """
import resource
import torch
from pcvpt.cli.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.zeros(10_000_000)  # 40 MB: 9,765 pages of 4 KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

own = faults()
kept = keep_freed_memory()
for _ in range(4):  # the heap grows at first
    faults()
print(kept, own, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _FAULTS], check=True, capture_output=True, text=True
    ).stdout.split()
    if said[0] == "False":
        pytest.skip("no glibc, or one that does not allow it")
    assert int(said[2]) < int(said[1]) / 10


def test_it_leaves_other_systems_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcvpt.cli import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
