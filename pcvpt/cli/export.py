"""``pcvpt export RUN``: a file for other runtimes; ``pcvpt predict FILE``: what it predicts."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from pcvpt.adapters.export import SUFFIXES, export_model, load_exported
from pcvpt.analysis.tables import print_table
from pcvpt.callbacks.prediction import Rows, check_table, rows_of, write_rows
from pcvpt.cli.analyze.images import items_of
from pcvpt.cli.analyze.trained_model import open_model
from pcvpt.cli.checks import check_predictions
from pcvpt.cli.parser import PROBABILITIES, TOP
from pcvpt.data import Preprocessing
from pcvpt.data.dataset import NamedImages
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import check_writable
from pcvpt.runs.folder import adapter_of

_IMAGES = "Image, folder, list .txt of paths, or - for such a list on standard input."
_SHOWN = ("precision", "input", "output", "images", "accuracy_torch", "accuracy_exported")


def main(arguments: Sequence[str]) -> int:
    """Run ``pcvpt export``; return the exit status.

    A UsageError is raised if there is no adapter or several, the file exists, or the proof fails.
    """
    parser = argparse.ArgumentParser(
        prog="pcvpt export",
        description="Export the model of a finished run, and prove the file on the images of val. "
        "Options of `pcvpt fit` that begin with --data. or --model. stand after RUN.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="Folder of a run, or file of an adapter.")
    add("--to", choices=[*SUFFIXES], required=True, help="Kind of the file.")
    add("--output", type=Path, help="File. Default: beside the adapter, with its name.")
    add("--images", help=f"Images of the proof. Default: those of val. {_IMAGES}")
    add("--no_preprocessing", action="store_true", help="Take normalised images, not uint8 pixels.")
    add("--softmax", action="store_true", help="Return probabilities, not logits.")
    add("--half", action="store_true", help="Compute in float16; accepted by its accuracy.")
    add("--opset", type=int, choices=range(18, 24), default=20, help="ONNX opset. Default: 20.")
    add("--overwrite", action="store_true", help="Replace a file that exists.")
    options, further = parser.parse_known_args(arguments)
    adapter = adapter_of(options.run)
    path = (options.output or adapter.with_suffix(SUFFIXES[options.to])).expanduser()
    if path.exists() and not options.overwrite:
        raise UsageError(f"{path} exists; name another file by --output, or give --overwrite")
    check_writable(path)
    trained = open_model(adapter, options=further)
    steps = trained.model.adapter.preprocessing
    batches: Iterable[tuple[Tensor, Tensor | None]]
    if options.images is None:
        trained.require_images("val")
        batches = iter(trained.data.val_dataloader())
    else:
        batches = ((batch, None) for batch, _ in _batches(options.images, steps))
    found = export_model(
        trained.model,
        path,
        options.to,
        batches,
        preprocessing=not options.no_preprocessing,
        softmax=options.softmax,
        half=options.half,
        opset=options.opset,
    )
    print_table([{name: found[name] for name in _SHOWN}], title=f"{path}, run by its own runtime")
    return 0


def predict(arguments: Sequence[str]) -> int:
    """Run ``pcvpt predict`` with an exported file; return the exit status.

    A UsageError is raised if the file is not of ``pcvpt export``, or there are no images.
    """
    parser = argparse.ArgumentParser(prog="pcvpt predict", allow_abbrev=False)
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="File of `pcvpt export`.")
    add("images", metavar="IMAGES", help=_IMAGES)
    add("--predictions", default="predictions.csv", help="File to write, CSV or .parquet.")
    add("--top", type=int, default=1, help=TOP)
    add("--probabilities", action="store_true", help=PROBABILITIES)
    options = parser.parse_args(arguments)
    check_predictions("predict", options)
    path, rows = Path(options.predictions).expanduser(), Rows()
    check_table(path, options.top)
    model = load_exported(options.file)
    steps, classes = model.adapter.preprocessing, model.adapter.class_names
    assert steps is not None  # or it would not have been exported
    for batch, names in _batches(options.images, steps):
        found = model.probabilities(batch)
        own = classes or [str(number) for number in range(found.shape[1])]
        rows += rows_of(names, found, own, options.top, options.probabilities)
    write_rows(path, rows)
    print(f"Predictions: {path}")
    return 0


def _batches(given: str, steps: Preprocessing) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield the images that a user names, uint8 ``(b, 3, h, w)``, with their names."""
    yield from DataLoader(NamedImages(items_of(given), steps), batch_size=32)
