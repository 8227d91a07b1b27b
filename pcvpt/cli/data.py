"""``pcvpt data``: list, get, convert, verify and show the 24 tasks."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import timm
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pcvpt.data import TASKS, InputSpec, Task, eval_transform, layouts, settle
from pcvpt.data.published_results import accuracies
from pcvpt.data.tools.contact_sheet import choose, contact_sheet
from pcvpt.data.tools.convert import convert
from pcvpt.data.tools.fetch.get import get, plan
from pcvpt.data.tools.fetch.sources import SOURCES
from pcvpt.data.tools.verify import Report, verify
from pcvpt.data.transforms import Resize
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
    """Run ``pcvpt data``; return the exit status, 1 when ``verify`` found something wrong.

    Raises:
        UsageError: for whatever is wrong with the arguments or the data.
    """
    options = _parser().parse_args(arguments or ["--help"])
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcvpt data",
        description="The 24 tasks: what is there, getting it, checking it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str, tasks: str | None
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=run)
        if tasks:
            made.add_argument("tasks", metavar="TASK", nargs=tasks, help="see `pcvpt data --help`")
        made.add_argument("--root", type=Path, default=Path("data"), help="folder of the data")
        return made

    def choose_layout(made: argparse.ArgumentParser) -> None:
        names = [layout.name for layout in layouts.LAYOUTS]
        made.add_argument("--layout", choices=names, help="where several are there")

    add("list", _list, "List the tasks: sizes, licence, where from, what is on disk.", None)
    made = add("get", _get, "Download the data from its official source, or say how.", "+")
    made.add_argument("--via", choices=("authors", "tfds"), help="instead of what is usual")
    made.add_argument("--plan", action="store_true", help="only say what would be done")
    made.add_argument("--keep_archives", action="store_true", help="keep what was downloaded")
    made = add("convert", _convert, "Write list files and images, losslessly.", "+")
    made.add_argument("--to", choices=("lists",), required=True, help="the layout to write")
    made.add_argument("--target", type=Path, required=True, help="folder to write into")
    choose_layout(made)
    made = add("verify", _verify, "Check counts, images, labels and leaks between splits.", "+")
    made.add_argument("--jobs", type=int, help="threads")
    choose_layout(made)
    made = add("show", _show, "Draw images with their labels, as the model sees them.", "+")
    made.add_argument("--output", type=Path, help="PNG file to write; TASK.png")
    made.add_argument("--images", type=int, default=16, help="of each split")
    made.add_argument("--protocol", choices=("vpt", "timm", "raw"), default="vpt")
    made.add_argument("--backbone", default="vit_base_patch16_224.orig_in21k", help="a timm model")
    choose_layout(made)
    return parser


def _chosen(names: Sequence[str]) -> list[Task]:
    """Return the tasks meant by ``names``, each once, in the order given."""
    tasks: dict[str, Task] = {}
    for name in names:
        found = [t for t in TASKS.values() if name in ("all", t.name, t.suite, t.group)]
        if not found:
            raise UsageError(
                f"no task {name!r}; there are {', '.join(TASKS)}, and the groups "
                f"{', '.join(_GROUPS)}"
            )
        tasks |= {task.name: task for task in found}
    return list(tasks.values())


def _list(options: argparse.Namespace) -> int:
    table = Table(caption="VPT-Deep: published test accuracy in %, ViT-B/16 (seeds/published.csv)")
    for column in ("task", "classes", "train", "val", "test", "VPT-Deep"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for column in ("from", "licence", f"in {options.root}"):
        table.add_column(column, overflow="fold")
    for task in TASKS.values():
        there = ", ".join(found.layout.name for found in layouts.find_all(task, options.root))
        sizes = [f"{n:,}" for n in (task.num_classes, task.train, task.val, task.test)]
        published = f"{accuracies(task.name)['vpt_deep']:.1f}"
        table.add_row(task.name, *sizes, published, _origin(task), task.licence, there or "-")
    _console().print(table)
    return 0


def _origin(task: Task) -> str:
    source = SOURCES[task.name]
    if source.by == "hand":
        return "by hand"
    if source.by == "tfds":
        return "TFDS"
    sizes = [archive.size for archive in source.archives]
    known = "" if None in sizes else f", {sum(filter(None, sizes)) / 1e9:.2f} GB"
    copies = any("/torchgeo/" in a.url or "isaaccorley" in a.url for a in source.archives)
    return f"{'TorchGeo' if copies else 'authors'}{known}"


def _get(options: argparse.Namespace) -> int:
    status = 0
    for task in _chosen(options.tasks):
        if options.plan:
            try:
                print(plan(task, options.root, options.via), end="\n\n")
            except UsageError as error:
                print(f"{task.name}: {error}", end="\n\n")
            continue
        try:
            with _bar(task.name) as advance:
                outcome = get(task, options.root, advance, options.via, options.keep_archives)
        except UsageError as error:  # the next tasks may still be downloaded
            print(f"{task.name}: {error}", end="\n\n")
            status = 1
            continue
        print(outcome.text, end="\n\n")
        if outcome.folder is None:  # the user has to follow steps first
            status = 1
    return status


def _convert(options: argparse.Namespace) -> int:
    for task in _chosen(options.tasks):
        found = layouts.find(task, options.root, options.layout)
        reading = found.read(task)
        _say_notes(task, reading.source, reading.notes)
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
            looked = partial(advance, "images looked at")
            report = verify(task, reading, folder, options.jobs, looked)
        _tell(report)
        problems += len(report.problems)
    return int(problems > 0)


def _tell(report: Report) -> None:
    print(f"{report.task}: {report.source}")
    table = Table()
    for column in ("split", "images", "expected", "classes", "repeated", "hash"):
        table.add_column(column, justify="left" if column in ("split", "hash") else "right")
    for split in report.splits:
        counts = split.count, split.expected, split.classes, split.repeated
        table.add_row(split.name, *(f"{count:,}" for count in counts), split.hash[:16] or "-")
    _console().print(table)
    for note in report.notes:
        print(f"note: {note}")
    for problem in report.problems:
        print(f"WRONG: {problem}")
    print("" if report.problems else "all is well\n")


def _show(options: argparse.Namespace) -> int:
    tasks = _chosen(options.tasks)
    if options.output and len(tasks) > 1:
        raise UsageError(f"--output names one file, but there are {len(tasks)} tasks; leave it out")
    for task in tasks:
        output: Path = options.output or Path(f"{task.name}.png")
        if output.exists():
            raise UsageError(f"{output} exists; remove it, or name another file by --output")
        reading = layouts.find(task, options.root, options.layout).read(task)
        spec = _input_spec(options.backbone)
        resize: Resize = "crop" if task.suite == "fgvc" else "squash"
        steps = settle(options.protocol, spec, resize, augment=False)
        parts = {"train": reading.train, "val": reading.val or (), "test": reading.test}
        rows = {name: choose(items, options.images) for name, items in parts.items() if items}
        sheet = contact_sheet(
            rows,
            reading.class_names,
            eval_transform(spec, resize, options.protocol),
            steps.mean,
            steps.std,
        )
        try:
            sheet.save(output, "png")
        except OSError as error:
            raise UsageError(f"{output}: cannot be written ({error.strerror})") from error
        print(f"{task.name}: {reading.source}; {steps}\n{output}")
    return 0


def _input_spec(backbone: str) -> InputSpec:
    config = timm.get_pretrained_cfg(backbone)
    if config is None:
        raise UsageError(f"timm knows no model {backbone!r}; `timm.list_models()` lists them")
    _, height, width = config.input_size
    return InputSpec.of(config.to_dict(), (height, width))


def _say_notes(task: Task, source: str, notes: Sequence[str]) -> None:
    print(f"{task.name}: {source}")
    for note in notes:
        print(f"note: {note}")


@contextmanager
def _bar(name: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """Give a function of (what is done, done, total) that moves a progress bar on stderr."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task(name, total=None)

        def advance(text: str, done: int, total: int | None) -> None:
            progress.update(bar, description=f"{name}: {text}", completed=done, total=total)

        yield advance


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)
