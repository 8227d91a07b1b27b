"""One backbone that serves many tasks: images per second of mixed batches, and what a task costs.

    python benchmarks/many_tasks.py [--backbones vit_small_patch16_224] [--batches 1 8 64]

Sides, all on random weights: ``one``, a batch of one task on the server; ``mixed``, a batch of all
tasks; ``by task``, a batch of each task's images after the other on the server; ``models``, the
same with one frozen model for each task. Each block of each task keeps another number of prompts.
They take turns in one process. Time of the processor is measured too, because it depends less on
other work on the machine. Then adapters are added until there are ``--adapters`` of them.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from report import hardware, on, options, prepare, ratio, show, spread, told, write
from rich.table import Table
from timing import alternate
from torch import Tensor

import pcvpt
from pcvpt.models.weights.fingerprint import backbone_tensors

CLASSES = 100
SIDES = ("one", "mixed", "by task", "models")


def adapters(folder: Path, backbone: str, args: Any) -> tuple[list[Path], Path]:
    """Write the adapters of all tasks into ``folder``, and the weights of their backbone."""
    size = {} if args.image_size is None else {"img_size": args.image_size}
    model = pcvpt.create_model(backbone, CLASSES, args.prompts, pretrained=False, **size)
    weights, files = folder / "weights.pth", []
    torch.save(backbone_tensors(model), weights)
    for task in range(args.tasks):
        for values in model.prompts.parameters():
            torch.nn.init.normal_(values)
        torch.nn.init.normal_(model.get_classifier().weight)
        scores = pcvpt.score_prompts(model, [], "random", seed=task)
        model.prompts.apply_mask(pcvpt.select_prompts(scores, args.keep))
        files.append(pcvpt.save_adapter(model, folder / f"{task}.safetensors"))
    return files, weights


def compare(server: Any, models: Sequence[Any], batch: int, args: Any) -> dict[str, Any]:
    """Return the row of one size of batch."""
    device = next(server.parameters()).device
    images = torch.randn(batch, 3, *server.backbone.patch_embed.img_size, device=device)
    task = [row % len(models) for row in range(batch)]
    groups = {t: images[[row for row in range(batch) if task[row] == t]] for t in sorted({*task})}
    works: dict[str, Callable[[], Any]] = {
        "one": lambda: server(images, [0] * batch),
        "mixed": lambda: server(images, task),
        "by task": lambda: [server(own, [t] * len(own)) for t, own in groups.items()],
        "models": lambda: [_predicted(models[t], own) for t, own in groups.items()],
    }
    found = works["mixed"]()
    for t, own in groups.items():  # or the times would be of another function
        rows = [row for row in range(batch) if task[row] == t]
        torch.testing.assert_close(found[rows], _predicted(models[t], own), rtol=1e-3, atol=1e-3)
    busy: dict[str, list[float]] = {name: [] for name in works}

    def watched(name: str) -> Callable[[], None]:
        def work() -> None:
            start = time.process_time()
            works[name]()
            busy[name].append(time.process_time() - start)

        return work

    times = alternate({name: watched(name) for name in works}, args.repeats, device)
    sides = {
        name: {"seconds": taken, "processor": busy[name][-len(taken) :]}
        for name, taken in times.items()
    }
    return {"batch": batch, "sides": sides}


@torch.no_grad()
def _predicted(model: Any, images: Tensor) -> Any:
    return model(images)


def fill(server: Any, file: Path, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Add the adapter ``file`` again and again; return time and memory at each of ``counts``."""
    rows: list[dict[str, Any]] = [{"adapters": 1, "bytes": _bytes(server.tasks["0"])}]
    taken, processor = [], []
    while len(server.tasks) < max(counts):
        start, busy = time.perf_counter(), time.process_time()
        server.add(file)
        taken.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
        if len(server.tasks) in counts:
            rows.append({"adapters": len(server.tasks), "bytes": _bytes(server.tasks)})
    last = int(list(server.tasks)[-1])
    start = time.perf_counter()
    server.remove(last)
    removed = time.perf_counter() - start
    return [*rows, {"add_s": taken, "add_processor_s": processor, "remove_s": removed}]


def _bytes(tasks: Any) -> int:
    return sum(tensor.nbytes for tensor in tasks.buffers())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--backbones", nargs="+", default=["vit_small_patch16_224"])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=50, help="Prompts per block.")
    parser.add_argument("--keep", type=float, default=0.3, help="Fraction that is kept.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--adapters", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--repeats", type=int, default=5, help="Rounds.")
    parser.add_argument("--image_size", type=int, help="Default: that of the backbone.")
    args = parser.parse_args(arguments)
    device = prepare(args)
    rows = []
    for backbone in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            files, weights = adapters(Path(folder), backbone, args)
            server = pcvpt.serve(files, pretrained=weights).to(device)
            models = [
                pcvpt.load_adapter(file, weights).freeze_prompts().to(device) for file in files
            ]
            for batch in args.batches:
                row = compare(server, models, batch, args)
                rows.append({"backbone": backbone, "prompts": args.prompts, **row})
            rows[-1]["filled"] = fill(server, files[0], args.adapters)
            rows[-1]["file_bytes"] = files[0].stat().st_size
        write("many_tasks", device, args, rows=rows)
    table = Table("backbone", "batch", *SIDES, *(f"{name} / one" for name in SIDES[1:]))
    for row in rows:
        sides = row["sides"]
        rates = [f"{row['batch'] / spread(sides[n]['seconds'])[0]:,.1f}" for n in SIDES]
        ratios = [told(ratio(sides, name, "one")) for name in SIDES[1:]]
        table.add_row(row["backbone"], str(row["batch"]), *rates, *ratios)
    show(f"Images per second, {args.tasks} tasks, {on(hardware(device))}", table)
    print(*(row["filled"][:-1] for row in rows if "filled" in row))


if __name__ == "__main__":
    main()
