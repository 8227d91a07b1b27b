"""``pcvpt data show``: images of a task with their labels, as the model sees them."""

import argparse
from pathlib import Path

import timm

import pcvpt.models.demo_vit  # noqa: F401  (timm then knows the demo's model)
from pcvpt.data import InputSpec, Task, settle
from pcvpt.data.contact_sheet import choose, contact_sheet
from pcvpt.data.layouts import Found
from pcvpt.data.transforms import Resize
from pcvpt.errors import UsageError


def show(task: Task, found: Found, options: argparse.Namespace) -> None:
    """Draw images of ``task`` into a PNG file, and print where it is.

    A UsageError refuses an output that exists or can't be written, and an unknown backbone.
    """
    output: Path = options.output or Path(f"{task.name}.png")
    if output.exists():
        raise UsageError(f"{output} exists; remove it, or name another file by --output")
    reading = found.read(task)
    config = timm.get_pretrained_cfg(options.backbone)
    if config is None:
        known = "`timm.list_models()` lists them"
        raise UsageError(f"timm knows no model {options.backbone!r}; {known}")
    spec = InputSpec.of(config.to_dict(), config.input_size[1:])
    resize: Resize = "crop" if task.suite == "fgvc" else "squash"
    steps = settle(options.protocol, spec, resize, augment=False)
    splits = {"train": reading.train, "val": reading.val or (), "test": reading.test}
    rows = {name: choose(items, options.images) for name, items in splits.items() if items}
    sheet = contact_sheet(rows, reading.class_names, steps)
    try:
        sheet.save(output, "png")
    except OSError as error:
        raise UsageError(f"{output}: can't be written ({error.strerror})") from error
    print(f"{task.name}: {reading.source}; {steps}\n{output}")
