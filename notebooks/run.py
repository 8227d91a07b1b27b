"""Execute the notebooks from clean kernels, and leave the executed copies in build/notebooks.

    python notebooks/run.py [--full] [NAME ...]

Each runs in an empty folder of its own, on small settings (PCVPT_SMALL=1) unless --full is given,
with one thread: as many at a time as there are cores. It ends with 1 when one of them fails, and
says which cell did.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HERE = Path(__file__).resolve().parent
EXECUTED = HERE.parent / "build" / "notebooks"
LIMIT = 1200  # seconds for one cell


async def execute(path: Path, output: Path) -> str | None:
    """Execute the notebook at ``path``, write its copy to ``output``, return what failed."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=LIMIT,
            kernel_name="python3",
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        start = time.monotonic()
        try:
            await client.async_execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            return f"{path.name}: {error}"
        finally:  # of one that failed, too: what it shows says why
            nbformat.write(notebook, output / path.name)
    print(f"{path.name:36} {time.monotonic() - start:6.1f} s", flush=True)
    return None


async def execute_all(paths: list[Path], output: Path, at_once: int) -> list[str]:
    """Execute the notebooks, ``at_once`` at a time; return what failed."""
    turns = asyncio.Semaphore(at_once)

    async def in_turn(path: Path) -> str | None:
        async with turns:
            return await execute(path, output)

    return [fault for fault in await asyncio.gather(*map(in_turn, paths)) if fault]


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute the notebooks from clean kernels.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 01_first_run; or all")
    parser.add_argument("--full", action="store_true", help="full settings, not small ones")
    parser.add_argument("--output", type=Path, default=EXECUTED, help="folder of the copies")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    options = parser.parse_args()
    there = {path.stem: path for path in sorted(HERE.glob("*.ipynb"))}
    for name in options.names:
        if name not in there:
            parser.error(f"no notebook {name!r}; there are {', '.join(there)}")
    os.environ.pop("PCVPT_SMALL", None)
    if not options.full:
        os.environ["PCVPT_SMALL"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"  # several share the cores
    options.output.mkdir(parents=True, exist_ok=True)
    paths = [there[name] for name in options.names or there]
    start = time.monotonic()
    faults = asyncio.run(execute_all(paths, options.output, options.jobs))
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(paths) - len(faults)} of {len(paths)} in {time.monotonic() - start:.0f} s")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
