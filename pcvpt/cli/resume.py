"""``--resume``: which run is resumed, and whether its configuration is still the same."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pcvpt.cli.yaml_file import load, read_mapping
from pcvpt.errors import UsageError
from pcvpt.runs.folder import CONFIG, is_finished, last_checkpoint, run_to_resume

# What may differ when a run is resumed, because the result is the same, or is checked elsewhere:
# where files are, how many processes do the work, what is shown.
_MAY_DIFFER = (
    *("output_dir", "name", "ckpt_path", "weights_only", "resume", "retest", "predictions"),
    *("model.pretrained", "model.gradient_checkpointing", "trainer.logger", "trainer.profiler"),
    *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes"),
    *("trainer.plugins", "trainer.enable_", "trainer.log_every_n_steps"),
    *("trainer.default_root_dir", "trainer.max_time", "trainer.num_sanity_val_steps"),
    *("data.init_args.batch_size", "data.init_args.predict_images"),
    *("data.init_args.root", "data.init_args.num_workers", "data.init_args.persistent_workers"),
    *("data.init_args.pin_memory", "data.init_args.cache", "data.init_args.check_images"),
)
# What a run had whose configuration is older than the key.
_BEFORE = {
    "condense.method": "prune",
    "model.prompt_init": "uniform",
    "matmul_precision": "highest",
}
_SHOWN = 5


def find_resumed(folder: Path, config: str) -> tuple[Path | None, Path | None]:
    """Return the run that ``--resume`` means, and its last checkpoint.

    There is no checkpoint if the run is finished, and neither if there is no run to resume.
    ``folder`` holds all runs of one name; ``config`` is the whole configuration, as YAML. A
    UsageError tells how the run differs from it, or that its file or checkpoint can't be read.
    """
    run = run_to_resume(folder)
    if run is None:
        return None, None
    file = run / CONFIG
    changed = differences(read_mapping(file), load(config)) if file.is_file() else []
    if changed:
        more = f" and {len(changed) - _SHOWN} more" * (len(changed) > _SHOWN)
        raise UsageError(
            f"--resume: {file} differs from this configuration in {'; '.join(changed[:_SHOWN])}"
            f"{more}. Resume with the configuration of the run, or start another run: with another "
            "--name, or without --resume"
        )
    return run, None if is_finished(run) else last_checkpoint(run)


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys with which the result would be another, as "key=saved (now other)"."""
    one, two = (_BEFORE | dict(leaves(config)) for config in (saved, now))
    # An older run had VPT's head and not the present default. It comes from the checkpoint.
    one.setdefault("model.head_init", two.get("model.head_init"))
    return [
        f"{key}={one.get(key)} (now {two.get(key)})"
        for key in sorted(one.keys() | two.keys())
        if one.get(key) != two.get(key) and not key.startswith(_MAY_DIFFER)
    ]


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of the nested mapping ``value``, with their values."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
