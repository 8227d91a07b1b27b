"""Processor time of what a user starts most: `pcvpt --help`, `pcvpt data list`, `import pcvpt`.

Seconds are those of a child process (user and system together), from the interpreter's start to its
end. The median of several starts is shown, with the least and the most.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence

from report import options, prepare, show, spread, told, write
from rich.table import Table

STARTS = {
    "pcvpt --help": ["-m", "pcvpt", "--help"],
    "pcvpt data list": ["-m", "pcvpt", "data", "list"],
    "import pcvpt": ["-c", "import pcvpt"],
    "python alone": ["-c", ""],
}


def seconds(arguments: list[str]) -> float:
    """Return the processor seconds of ``python ARGUMENTS``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="Number of starts of each.")
    args = parser.parse_args(arguments)
    device = prepare(args)
    for start in STARTS.values():  # once, so that files are in memory and compiled
        seconds(start)
    found = {name: [seconds(start) for _ in range(args.repeats)] for name, start in STARTS.items()}
    table = Table("start", "processor seconds, median (least to most)")
    for name, times in found.items():
        table.add_row(name, told(spread(times)))
    show("Processor time of a start", table)
    write("startup", device, args, processor_seconds=found)


if __name__ == "__main__":
    main()
