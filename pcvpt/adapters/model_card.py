"""The folder that `pcvpt push` uploads: an adapter, its description, and a model card."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pcvpt.adapters.adapter import Adapter, to_text
from pcvpt.adapters.file import read_adapter
from pcvpt.adapters.hub import ADAPTER, CARD, DESCRIPTION
from pcvpt.adapters.load import call_that_loads
from pcvpt.adapters.tensors import KEEP
from pcvpt.analysis.cost import million
from pcvpt.analysis.stages import stages, validated
from pcvpt.data import TASKS
from pcvpt.errors import UsageError
from pcvpt.runs.atomic import write_json, write_text
from pcvpt.runs.folder import CHECKPOINTS, RESULTS, entry_of, read_json, tests_of

_KIND = "image-classification"
_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


def write_repository(
    folder: Path, name: str, file: Path, from_timm: bool, licence: str | None = None
) -> None:
    """Write the files of the repository ``name`` (``OWNER/NAME``) into the empty ``folder``.

    ``file`` is that of the adapter, in the folder of its finished run. The card names a base model
    only if its weights are ``from_timm``, and their licence if no other ``licence`` is given. A
    UsageError is raised if the adapter can't be read, or is of another backbone than the run.
    """
    adapter, tensors = read_adapter(file)
    results = read_json(file.parent / RESULTS)
    if adapter.fingerprint != results.get("backbone_fingerprint"):
        raise UsageError(
            f"{file}: of another backbone than its run: the fingerprints are {adapter.fingerprint} "
            f"and {results.get('backbone_fingerprint')}; give an adapter that the run wrote"
        )
    data, budget = results.get("data", {}), adapter.provenance.get("budget") or ""
    checkpoint = file.parent / CHECKPOINTS / f"{adapter.provenance.get('checkpoint')}.ckpt"
    tests = [read_json(test)["test/accuracy"] for test in tests_of(checkpoint)]
    task, rows = TASKS.get(data.get("task")), stages(file.parent, budget)
    # The page names no folders of this machine, and the hub calls one's own images imagefolder.
    title = task.title if task else re.sub(r" in \S+$", "", data.get("source", "unknown"))
    dataset = {"dataset_type": task.name if task else "imagefolder", "dataset_name": title}
    metadata = ModelCardData(
        **_base(adapter, from_timm, licence),
        library_name="pcvpt",
        pipeline_tag=_KIND,
        tags=["visual-prompt-tuning", "prompt-condensation"],
        datasets=[dataset["dataset_type"]],
        metrics=["accuracy"],
        model_name=name,
        eval_results=list(_evaluations(adapter.provenance, results, tests, dataset)),
    )
    told = {
        "call": call_that_loads(f"hf://{name}", from_timm, adapter.backbone),
        "columns": [column for column in rows[0] if any(row[column] for row in rows)],
        "kept": tensors[KEEP].sum(1).tolist(),
        "results": results | entry_of(results, budget),
        "size": round(file.stat().st_size / 1000),
        "validated": validated(results),
    }
    known = {"adapter": adapter, "data": data, "million": million, "name": name, "rows": rows}
    known |= {"task": task, "tests": len(tests), "title": title}
    card = ModelCard.from_template(metadata, str(_TEMPLATE), **told, **known)
    shutil.copyfile(file, folder / ADAPTER)
    write_json(folder / DESCRIPTION, json.loads(to_text(adapter)))
    write_text(folder / CARD, f"{card}\n")


def _evaluations(
    origin: Mapping[str, Any], results: Mapping[str, Any], tests: list[float], dataset: Any
) -> Iterator[EvalResult]:
    """Yield the accuracy on val, unless it was trained on, and that of the first test."""
    data, found = results.get("data", {}), {}
    names = (f"accuracy_{stage}" for stage in ("finetuned", "masked", "before"))
    val = next((origin[name] for name in names if name in origin), None)
    if val is not None and data.get("held_out", True):
        part = f" ({results['validated']})" if "validated" in results else ""
        found[f"validation{part}"] = val / 100
    if tests:
        found["test"] = tests[0]
    for split, accuracy in found.items():
        yield EvalResult(
            task_type=_KIND,
            dataset_config=data.get("split"),
            dataset_split=split,
            dataset_args={"protocol": data.get("protocol")},
            metric_type="accuracy",
            metric_value=round(accuracy, 6),
            **dataset,
        )


def _base(adapter: Adapter, from_timm: bool, licence: str | None) -> dict[str, Any]:
    """Return base model and licence as the hub names them."""
    scheme, _, name = adapter.backbone.rpartition(":")  # such as hf-hub:OWNER/NAME
    if not from_timm:
        return {"license": licence or "unknown"}
    weights: Any = None if scheme else timm.get_pretrained_cfg(adapter.backbone)
    base, found = (weights.hf_hub_id, weights.license) if weights else (name, None)
    metadata = {"base_model": base, "base_model_relation": "adapter"}
    metadata["license"] = licence or found or "unknown"
    if not licence and str(found).endswith("-license"):  # which the hub's list has not
        page = f"https://huggingface.co/{base}"
        metadata |= {"license": "other", "license_name": found, "license_link": page}
    return metadata
