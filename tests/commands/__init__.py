"""Runs of the command in processes that tests may harm, and what they leave behind."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parents[1]
# Seconds for what takes a few, on a machine that may be busy. A safety net: no test is about speed.
LIMIT = 900
SAVED = "Saved; the same command with --resume"


class Runs:
    """Starts runs and reads their folders.

    Args:
        folder: Folder of the runs.
        configs: Folder of the tests' config files.
    """

    def __init__(self, folder: Path, configs: Path) -> None:
        self.folder, self.configs = folder, configs
        # It imports once what each start needs; nothing of torch has run there, so forks are safe.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pcvpt.cli.main", "commands.callbacks"])

    def arguments(self, name: str, configs: Sequence[str], *options: str) -> list[str]:
        """Return the arguments of ``pcvpt`` for the run ``name`` with these config files."""
        files = [part for c in configs for part in ("--config", str(self.configs / f"{c}.yaml"))]
        home = ("--output_dir", str(self.folder), "--name", name)
        return ["fit", "--config", "demo.yaml", *files, *home, *options]

    def fork(
        self, arguments: Sequence[str], output: Path, environment: dict[str, str] | None = None
    ) -> BaseProcess:
        """Start the command in a fork of a process that has imported it, which saves that time."""
        process: Any = self.context.Process(
            target=_command, args=(list(arguments), output, environment or {})
        )
        process.start()
        return process  # type: ignore[no-any-return]

    def launch(
        self, arguments: Sequence[str], *launcher: str, **environment: str
    ) -> subprocess.Popen[str]:
        """Start the command, or ``launcher`` with it, as a new process with new children."""
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "pcvpt", *arguments],
            env={
                **{**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # all its processes can be ended together
        )

    def run_folder(self, name: str) -> Path:
        """Return the folder of the newest run ``name``."""
        return max((self.folder / name).glob("version_*"))

    def checkpoint(self, name: str, stage: str) -> Any:
        file = self.run_folder(name) / "checkpoints" / f"{stage}.ckpt"
        return torch.load(file, weights_only=True)

    def results(self, name: str) -> dict[str, Any]:
        """Return the figures of the run ``name`` except times and memory."""
        results = json.loads((self.run_folder(name) / "results.json").read_text())
        measured = ("second", "memory")
        return {k: value for k, value in results.items() if not any(part in k for part in measured)}


def _command(arguments: list[str], output: Path, environment: dict[str, str]) -> None:
    from pcvpt.cli.main import main

    os.setsid()
    os.environ |= environment
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of workers, as is usual
    main(arguments)


def ended(*processes: subprocess.Popen[str], expected: int | None = 0) -> list[str]:
    """Wait until ``processes`` end, and return what each has printed.

    All are read at the same time: a process whose output nobody reads stops, and others may wait
    for it.

    Args:
        processes: From :meth:`Runs.launch`.
        expected: Exit status of each. None for any but 0.
    """

    def read(process: subprocess.Popen[str]) -> str:
        try:
            return process.communicate(timeout=LIMIT)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"HANGS: {process.communicate()[0]}"

    with ThreadPoolExecutor(len(processes)) as pool:
        said = list(pool.map(read, processes))
    for process in processes:
        good = (process.returncode != 0) if expected is None else process.returncode == expected
        assert good, "\n---\n".join(said)
    return said


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def leaves(value: Any, name: str) -> dict[str, Any]:
    """Return the leaves of nested dicts and lists by the path to each."""
    if isinstance(value, dict):
        pairs = [(f"{name}.{key}", inner) for key, inner in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{name}[{number}]", inner) for number, inner in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for way, inner in pairs for key, leaf in leaves(inner, way).items()}


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Return the names of the leaves that differ in any bit."""
    return sorted(
        name
        for name in one.keys() | two.keys()
        if name not in one or name not in two or not _same(one[name], two[name])
    )


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(torch.nan_to_num(one, nan=-1.0), torch.nan_to_num(two, nan=-1.0))
    return bool(one == two)
