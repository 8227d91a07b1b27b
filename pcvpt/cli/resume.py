"""Going on with a run: whether a configuration is still that of the run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pcvpt.errors import UsageError
from pcvpt.runs.folder import CONFIG, is_finished, last_checkpoint, run_to_resume

# What may be another when a run goes on, because the result is the same, or is checked by itself:
# where things are, how many processes do the work, what is shown.
_FREE = (
    *("output_dir", "name", "ckpt_path", "weights_only", "resume", "retest", "predictions"),
    *("model.pretrained", "model.gradient_checkpointing", "trainer.logger", "trainer.profiler"),
    *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes"),
    *(
        "trainer.plugins",
        "trainer.enable_",
        "trainer.log_every_n_steps",
        "trainer.default_root_dir",
    ),
    *("data.init_args.root", "data.init_args.num_workers", "data.init_args.persistent_workers"),
    *("data.init_args.pin_memory", "data.init_args.cache", "data.init_args.check_images"),
    *("data.init_args.batch_size", "data.init_args.predict_images"),
)
_SHOWN = 5


def find_resumed(folder: Path, config: Mapping[str, Any]) -> tuple[Path | None, Path | None]:
    """Find the run in ``folder`` that ``--resume`` means.

    Args:
        folder: of the runs of one name.
        config: the whole configuration, as plain types.

    Returns:
        The run and its last checkpoint; no checkpoint if it is finished, neither if there is no run
        to go on with.

    Raises:
        UsageError: when the run was begun with another configuration, naming the differences; or
            its checkpoint can't be read.
    """
    run = run_to_resume(folder)
    if run is None:
        return None, None
    file = run / CONFIG
    saved = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    changed = differences(saved, config) if isinstance(saved, dict) else []
    if changed:
        more = f" and {len(changed) - _SHOWN} more" * (len(changed) > _SHOWN)
        raise UsageError(
            f"--resume: {file} differs from this configuration in {'; '.join(changed[:_SHOWN])}"
            f"{more}. Go on with the configuration of the run, or start another: with another "
            "--name, or without --resume"
        )
    return run, None if is_finished(run) else last_checkpoint(run)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what would give another result, as "key=saved (now other)"."""
    one, two = dict(_leaves(saved)), dict(_leaves(now))
    return [
        f"{key}={one.get(key)} (now {two.get(key)})"
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key) and not key.startswith(_FREE)
    ]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
