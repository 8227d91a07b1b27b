"""Every shipped config is valid, and the demo trains with each method."""

from pathlib import Path

import pytest
import torch
import yaml

from pcvpt.cli.config_files import CONFIGS
from pcvpt.cli.main import main

SHIPPED = sorted(path.name for path in CONFIGS.rglob("*.yaml") if path.name != "base.yaml")
METHODS = sorted(path.name for path in (CONFIGS / "methods").glob("*.yaml"))
HAS_DATA = {
    path.name for path in CONFIGS.rglob("*.yaml") if "data" in yaml.safe_load(path.read_text())
}


@pytest.mark.parametrize("config", SHIPPED)
def test_every_shipped_config_is_valid(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = [] if config in HAS_DATA else ["--config", "demo.yaml"]
    with pytest.raises(SystemExit) as end:
        main(["fit", *base, "--config", config, "--print_config"])
    assert not end.value.code
    printed = yaml.safe_load(capsys.readouterr().out)
    own = yaml.safe_load(next(CONFIGS.rglob(config)).read_text())
    for section in own.keys() & {"model", "condense"}:
        for key, value in own[section].items():
            if not isinstance(value, dict):
                assert printed[section][key] == value
    assert printed["model"]["prompt"]["optimizer"]["class_path"]
    assert printed["seed_everything"] == 42


@pytest.mark.parametrize("method", [None, *METHODS])
def test_the_demo_trains_with_each_method(
    method: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            *("fit", "--config", "demo.yaml", *(["--config", method] if method else [])),
            *("--output_dir", str(tmp_path), "--name", "run", "--trainer.accelerator=cpu"),
            *("--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"),
            *("--condense.prompt_epochs=1", "--condense.finetune_epochs=1"),
        ]
    )
    assert "Result on the validation images" in capsys.readouterr().out
    checkpoints = tmp_path / "run" / "version_0" / "checkpoints"
    state = {
        path.stem: torch.load(path, weights_only=True)["state_dict"]
        for path in checkpoints.iterdir()
    }
    keep = state.get("finetune-last", state["prompt-last"])["model.prompts.keep"]
    kept = {
        None: (6, 20, 36),
        "vpt.yaml": (6, 20, 120),
        "linear.yaml": (0, 0, 0),
        "shallow.yaml": (1, 20, 6),
    }
    assert (*keep.shape, int(keep.sum())) == kept[method]
    assert ("finetune-last" in state) == (method in (None, "shallow.yaml"))
