"""``pcvpt data``: list, get, convert, verify and show the 24 tasks."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from pcvpt.analysis.tables import print_table
from pcvpt.data import TASKS, Task, layouts
from pcvpt.data.published_results import accuracies
from pcvpt.data.tools.convert import convert
from pcvpt.data.tools.fetch.get import get, plan
from pcvpt.data.tools.fetch.sources import SOURCES
from pcvpt.data.tools.verify import verify
from pcvpt.errors import UsageError

_EXAMPLES = """examples:
  pcvpt data list
  pcvpt data get cars dtd --root data
  pcvpt data verify vtab --root data
  pcvpt data convert cifar100 --to lists --target vtab-1k
  pcvpt data show dtd --output dtd.png

TASK is one of the 24, a suite (fgvc, vtab), a group (natural, specialized, structured), or all."""

_GROUPS = ("all", "fgvc", "vtab", "natural", "specialized", "structured")


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt data``; return the exit status, 1 when something is wrong with the data.

    A UsageError tells a mistake in the arguments, or data that can't be read.
    """
    options = _parser().parse_args(arguments or ["--help"])
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcvpt data",
        description="List, download, convert, check and show the images of the 24 tasks.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int], text: str) -> Callable[..., object]:
        made = commands.add_parser(run.__name__.strip("_"), help=text, description=text)
        made.set_defaults(command=run)
        if run is not _list:
            made.add_argument("tasks", metavar="TASK", nargs="+", help="see `pcvpt data --help`")
        made.add_argument("--root", type=Path, default=Path("data"), help="Folder of all data.")
        if run not in (_list, _get):
            names = [layout.name for layout in layouts.LAYOUTS]
            made.add_argument("--layout", choices=names, help="Default: the first that is found.")
        return made.add_argument

    command(_list, "List the tasks: sizes, licence, source, and which are on disk.")
    add = command(_get, "Download data from the official source, or print how to get them.")
    add("--via", choices=("authors", "tfds"), help="Source. Default: the usual one of each task.")
    add("--plan", action="store_true", help="Only print what would be done.")
    add("--keep_archives", action="store_true", help="Keep the downloaded archives.")
    add = command(_convert, "Write images and lists of images, without loss.")
    add("--to", choices=("lists",), required=True, help="Layout to write.")
    add("--target", type=Path, required=True, help="Folder to write into.")
    add = command(_verify, "Check counts, images, labels, and leaks between splits.")
    add("--jobs", type=int, help="Number of threads. Default: one per processor.")
    add = command(_show, "Draw images with their labels, as the model sees them.")
    add("--output", type=Path, help="PNG file to write. Default: TASK.png.")
    add("--images", type=int, default=16, help="Number of images of each split.")
    add("--protocol", choices=("vpt", "timm", "raw"), default="vpt", help="Preprocessing.")
    text = "Name of the timm model that gives size and normalisation."
    add("--backbone", default="vit_base_patch16_224.orig_in21k", help=text)
    return parser


def _chosen(names: Sequence[str]) -> list[Task]:
    """Return the tasks that ``names`` mean, each once, in the order of the names."""
    tasks: dict[str, Task] = {}
    for name in names:
        found = [t for t in TASKS.values() if name in ("all", t.name, t.suite, t.group)]
        if not found:
            known = f"{', '.join(TASKS)}, and the groups {', '.join(_GROUPS)}"
            raise UsageError(f"no task {name!r}; there are {known}")
        tasks |= {task.name: task for task in found}
    return list(tasks.values())


def _list(options: argparse.Namespace) -> int:
    rows = [
        {
            "task": task.name,
            "classes": task.num_classes,
            "train": task.train,
            "val": task.val,
            "test": task.test,
            "VPT-Deep": f"{accuracies(task.name)['vpt_deep']:.1f}",
            "from": _origin(task),
            "licence": task.licence,
            f"in {options.root}": ", ".join(
                f.layout.name for f in layouts.find_all(task, options.root)
            )
            or "-",
        }
        for task in TASKS.values()
    ]
    caption = "VPT-Deep: published test accuracy in %, ViT-B/16 (seeds/published.csv)"
    print_table(rows, caption=caption)
    return 0


def _origin(task: Task) -> str:
    source = SOURCES[task.name]
    if source.by != "download":
        return {"hand": "manual", "tfds": "TFDS"}[source.by]
    sizes = [archive.size for archive in source.archives]
    known = "" if None in sizes else f", {sum(filter(None, sizes)) / 1e9:.2f} GB"
    copies = any("/torchgeo/" in a.url or "isaaccorley" in a.url for a in source.archives)
    return f"{'TorchGeo' if copies else 'authors'}{known}"


def _get(options: argparse.Namespace) -> int:
    status = 0
    for task in _chosen(options.tasks):
        try:
            if options.plan:
                print(plan(task, options.root, options.via), end="\n\n")
                continue
            with _bar(task.name) as advance:
                outcome = get(task, options.root, advance, options.via, options.keep_archives)
        except UsageError as error:  # the next tasks may still be downloaded
            print(f"{task.name}: {error}", end="\n\n")
            status |= not options.plan
            continue
        print(outcome.text, end="\n\n")
        status |= outcome.folder is None  # the user has to follow steps first
    return status


def _convert(options: argparse.Namespace) -> int:
    for task in _chosen(options.tasks):
        found = layouts.find(task, options.root, options.layout)
        reading = found.read(task)
        print(f"{task.name}: {reading.source}")
        for note in reading.notes:
            print(f"note: {note}")
        with _bar(task.name) as advance:
            folder = convert(task, reading, options.target, partial(advance, "images written"))
        print(f"{task.name}: written to {folder}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    problems = 0
    for task in _chosen(options.tasks):
        try:
            found = layouts.find(task, options.root, options.layout)
            reading = found.read(task)
        except UsageError as error:
            print(f"{task.name}: {error}\n")
            problems += 1
            continue
        folder = found.folder if found.layout.name == "lists" else None
        with _bar(task.name) as advance:
            checked = partial(advance, "images checked")
            report = verify(task, reading, folder, options.jobs, checked)
        print(f"{task.name}: {reading.source}")
        print_table([vars(facts) | {"hash": facts.hash[:16] or "-"} for facts in report.splits])
        for note in report.notes:
            print(f"note: {note}")
        for problem in report.problems:
            print(f"WRONG: {problem}")
        print("" if report.problems else "no problem found\n")
        problems += len(report.problems)
    return int(problems > 0)


def _show(options: argparse.Namespace) -> int:
    # It needs torch and timm, which the other commands do without.
    from pcvpt.cli.data_show import show

    tasks = _chosen(options.tasks)
    if options.output and len(tasks) > 1:
        raise UsageError(f"--output names one file, but there are {len(tasks)} tasks; leave it out")
    for task in tasks:
        show(task, layouts.find(task, options.root, options.layout), options)
    return 0


@contextmanager
def _bar(name: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a function of (step, done, total) that moves a progress bar on stderr."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(name, total=None)

        def advance(text: str, done: int, total: int | None) -> None:
            progress.update(bar, description=f"{name}: {text}", completed=done, total=total)

        yield advance
