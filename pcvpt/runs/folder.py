"""Run folders: which run a name means, and which of its checkpoints.

Neither torch nor lightning is imported before a checkpoint is read.
"""

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcvpt.errors import UsageError

if TYPE_CHECKING:
    import lightning.pytorch as pl

CONFIG, RESULTS, CHECKPOINTS = "config.yaml", "results.json", "checkpoints"
ENVIRONMENT, REPORT = "environment.json", "report.html"


def shipped(name: str) -> Path:
    """Return the folder ``name`` that ships: inside an installed package, or above it."""
    package = Path(__file__).resolve().parents[1]
    inside, above = package / name, package.parent / name
    return above if above.is_dir() and not inside.is_dir() else inside


def folder_of(trainer: "pl.Trainer") -> Path:
    """Return the run folder of ``trainer``; all processes must call this together."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def find_run(name: str) -> Path:
    """Return the run folder ``name``, or the newest run folder in it.

    Raises:
        UsageError: If there is none.
    """
    folder = Path(name).expanduser()
    runs = [run for run in (folder, *folder.glob("version_*")) if (run / CONFIG).is_file()]
    runs = [run for run in runs if any(run.glob(f"{CHECKPOINTS}/*.ckpt"))] or runs
    if not runs:
        raise UsageError(f"{folder}: no run here (no {CONFIG}); `pcvpt fit` makes one")
    return max(runs, key=_number)


def next_run(folder: Path) -> Path:
    """Return the run folder of a new run in ``folder``."""
    last = max(map(_number, folder.glob("version_*")), default=[-1])[0]
    return folder / f"version_{last + 1}"


def title_of(run: Path) -> str:
    """Return the name of the run in folder ``run`` for tables and figures."""
    return f"{run.parent.name}/{run.name}" if run.name.startswith("version_") else run.name


def run_to_resume(folder: Path) -> Path | None:
    """Return the newest run in ``folder`` that can be resumed or is finished.

    None means that a new run is due: there is no other, or the newest was interrupted before its
    first checkpoint, and the one before it is finished.
    """
    interrupted = False
    for run in sorted(folder.glob("version_*"), key=_number, reverse=True):
        if is_finished(run):
            return None if interrupted else run
        if any(run.glob(f"{CHECKPOINTS}/*-last.ckpt")):
            return run
        interrupted |= (run / CONFIG).is_file()
    return None


def finished_run(folder: Path) -> Path | None:
    """Return the run in ``folder`` that ``--resume`` means, if it is finished."""
    run = run_to_resume(folder)
    return run if run is not None and is_finished(run) else None


def is_finished(run: Path) -> bool:
    """Return whether the run in folder ``run`` is finished."""
    return (run / RESULTS).is_file()


def require_finished(run: Path) -> Path:
    """Return the folder ``run``; raise a UsageError unless its run is finished."""
    if not is_finished(run):
        raise UsageError(f"{run}: not finished yet; `pcvpt fit --resume` resumes it")
    return run


def adapters_of(run: Path) -> list[Path]:
    """Return the adapter files of the run in folder ``run``, one for each budget."""
    return sorted(run.glob("adapter*.safetensors"))


def adapter_of(name: str) -> Path:
    """Return the adapter file ``name``, or that of the run in the folder ``name``.

    Raises:
        UsageError: If the run has none yet, or several budgets leave a choice.
    """
    path = Path(name).expanduser()
    if path.suffix == ".safetensors":
        return path
    run = find_run(name)
    found = adapters_of(run)
    if not found:
        raise UsageError(f"{run}: no adapter here: not finished; `pcvpt fit --resume` resumes it")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UsageError(f"{run} has several budgets; give the file of one in its place: {names}")
    return found[0]


def read_epochs(run: Path) -> list[dict[str, str]]:
    """Return the rows of the table of epochs in the run folder ``run``, one for each on disk."""
    for name in ("epochs.csv", "metrics.csv"):
        if (run / name).is_file():
            with (run / name).open(newline="") as lines:
                return list(csv.DictReader(lines))
    return []


def read_json(file: Path) -> Any:
    """Return the content of a JSON file of a run or a study."""
    return json.loads(file.read_text(encoding="utf-8"))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of the checkpoint ``path``; no code in it is run.

    Raises:
        UsageError: Naming ``path``, unless it is a readable checkpoint of pcvpt.
    """
    import torch  # which takes seconds, and only this function needs it

    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and foreign files raise nearly anything
        raise UsageError(f"{path}: not a readable checkpoint") from error
    if not isinstance(checkpoint, dict) or "pcvpt" not in checkpoint:
        raise UsageError(f"{path}: not a checkpoint of pcvpt")
    return checkpoint


def last_checkpoint(run: Path) -> Path:
    """Return the checkpoint that resumes the run in folder ``run``: the one with the most steps.

    Raises:
        UsageError: If there is none, or one can't be read.
    """
    found = sorted(run.glob(f"{CHECKPOINTS}/*-last.ckpt"))
    if not found:
        raise UsageError(f"{run}: no checkpoint here to resume")
    try:
        return max(found, key=lambda path: int(read_checkpoint(path)["global_step"]))
    except UsageError as error:
        raise UsageError(f"{error}; move it away, and the one before is resumed") from error


def default_checkpoint(run: Path) -> Path:
    """Return the checkpoint that represents the run in folder ``run``.

    It is the best of fine-tuning, or else its last, or else those of prompt training. With several
    budgets, it is the checkpoint of the only budget that was fine-tuned.

    Raises:
        UsageError: If there is none, or if several budgets leave a choice.
    """
    found = sorted((path.stem for path in run.glob(f"{CHECKPOINTS}/*.ckpt")), reverse=True)
    of_phase = r"(prompt|finetune|finetune_.+)-(?:best|last)|masked_.+"
    named = (re.fullmatch(of_phase, stem) for stem in found)
    # The best of a phase comes after its last, and takes its place.
    choices = sorted({match[1] or match[0]: match[0] for match in named if match}.values())
    finetuned = [stem for stem in choices if stem.startswith("finetune")]
    choices = finetuned if len(finetuned) == 1 else choices
    if not choices:
        raise UsageError(f"{run}: no checkpoint here yet")
    if len(choices) > 1:
        raise UsageError(
            f"{run} has several budgets; choose one by --ckpt_path {run}/{CHECKPOINTS}/NAME.ckpt, "
            f"where NAME is one of {', '.join(choices)}"
        )
    return run / CHECKPOINTS / f"{choices[0]}.ckpt"


def entry_of(results: dict[str, Any], budget: str) -> dict[str, Any]:
    """Return the figures of ``budget`` in ``results``; all of them for the only budget, ""."""
    entries = results.get("budgets", ())
    return next((entry for entry in entries if str(float(entry["keep"])) == budget), results)


def tests_of(checkpoint: Path) -> list[Path]:
    """Return the files with the figures of each test of ``checkpoint``, in order."""
    run = checkpoint.parent.parent
    name = re.compile(rf"test-{re.escape(checkpoint.stem)}(?:-(\d+))?")
    found = (name.fullmatch(file.stem) for file in run.glob("test-*.json"))
    numbers = sorted(int(match[1] or 1) for match in found if match)
    return [file_of_test(checkpoint, number) for number in numbers]


def file_of_test(checkpoint: Path, number: int) -> Path:
    """Return the file for the figures of test ``number`` of ``checkpoint``, counted from 1."""
    name = f"test-{checkpoint.stem}" + f"-{number}" * (number > 1)
    return checkpoint.parent.parent / f"{name}.json"


def _number(run: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", run.name)] or [0]
