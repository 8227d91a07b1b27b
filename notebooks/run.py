"""Execute the notebooks in new kernels, and write the executed copies into build/notebooks.

    python notebooks/run.py [--full] [NAME ...]

Each notebook runs in a new empty folder, on small settings (PCVPT_SMALL=1) unless --full is given,
and with one thread. One notebook per core runs at the same time. The exit status is 1 if a notebook
fails, and the error shows the cell.
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
    """Execute the notebook at ``path``, write its copy into ``output``, return the error if any."""
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
        finally:  # after an error too, because the outputs help to find it
            nbformat.write(notebook, output / path.name)
    print(f"{path.name:36} {time.monotonic() - start:6.1f} s", flush=True)
    return None


async def execute_all(paths: list[Path], output: Path, at_once: int) -> list[str]:
    """Execute the notebooks, ``at_once`` at the same time; return the errors."""
    turns = asyncio.Semaphore(at_once)

    async def in_turn(path: Path) -> str | None:
        async with turns:
            return await execute(path, output)

    return [fault for fault in await asyncio.gather(*map(in_turn, paths)) if fault]


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute the notebooks in new kernels.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="Notebook such as 01_first_run. Default: all."
    )
    parser.add_argument("--full", action="store_true", help="Use the full settings.")
    parser.add_argument(
        "--output", type=Path, default=EXECUTED, help="Folder of the executed copies."
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="Number of notebooks that run at the same time. Default: number of cores.",
    )
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
