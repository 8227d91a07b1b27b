"""Strategies that a run can't have are refused by name, with the reason, before data are read."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    SingleDeviceStrategy,
    StrategyRegistry,
)

from pcvpt import PhaseRecipe, PromptCondensation, PromptTuner
from pcvpt.cli.main import main
from pcvpt.data import ImageDataModule
from pcvpt.data.datamodules.demo import DemoDataModule
from pcvpt.errors import UsageError
from pcvpt.training.preflight import refuse_named, require_supported

CLASSES = "lightning.pytorch.strategies"
REFUSED: dict[Any, str] = {
    "fsdp": "strategy fsdp is not supported: it divides each parameter",
    "fsdp_cpu_offload": "strategy fsdp_cpu_offload is not supported: it divides",
    "deepspeed": "strategy deepspeed is not supported: it keeps the optimizer",
    "deepspeed_stage_2": "strategy deepspeed_stage_2 is not supported: it keeps the optimizer",
    "xla": "strategy xla is not supported: condensing was never tried there",
    "ModelParallelStrategy": "strategy ModelParallelStrategy is not supported: it divides",
    "DeepSpeedStrategy": "strategy DeepSpeedStrategy is not supported: it keeps the optimizer",
    "FSDPStrategy": "strategy FSDPStrategy is not supported: it divides",
}
OPTIONS = {
    "static_graph": (True, "static_graph=True is not supported: DDP then relies on steps"),
    "model_averaging_period": (4, "model_averaging_period=4 is not supported: devices then train"),
}


class Other(ParallelStrategy):
    """A strategy of somebody else's."""

    broadcast = barrier = all_gather = reduce = model_to_device = root_device = None  # type: ignore


Other.__abstractmethods__ = frozenset()


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise AssertionError("the data were looked at")

    monkeypatch.setattr(ImageDataModule, "splits", property(fail))
    monkeypatch.setattr(ImageDataModule, "prepare_data", fail)


def _complaint(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "demo.yaml", *options])
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", REFUSED)
def test_the_command_refuses_a_strategy_by_name_before_it_looks_at_data(
    name: str, untouched: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    strategy = {"class_path": f"{CLASSES}.{name}"} if name[0].isupper() else name
    (tmp_path / "more.yaml").write_text(yaml.dump({"trainer": {"strategy": strategy}}))
    said = _complaint(capsys, "--config", str(tmp_path / "more.yaml"))
    assert f"pcvpt: error: {REFUSED[name]}" in said
    assert "use one device, or trainer.strategy=ddp" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("option", OPTIONS)
def test_the_command_refuses_options_that_do_not_go_with_two_phases(
    option: str, untouched: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    value, message = OPTIONS[option]
    strategy = {"class_path": f"{CLASSES}.DDPStrategy", "init_args": {option: value}}
    (tmp_path / "more.yaml").write_text(yaml.dump({"trainer": {"strategy": strategy}}))
    assert f"pcvpt: error: {message}" in _complaint(capsys, "--config", str(tmp_path / "more.yaml"))


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (FSDPStrategy(), REFUSED["FSDPStrategy"]),
        (ModelParallelStrategy(), REFUSED["ModelParallelStrategy"]),
        (Other(), "strategy Other is not supported: condensing was never tried with it"),
        *((DDPStrategy(**{name: value}), text) for name, (value, text) in OPTIONS.items()),
    ],
)
def test_a_strategy_that_cannot_change_phase_is_refused(strategy: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require_supported(strategy)


@pytest.mark.parametrize(
    "strategy",
    [SingleDeviceStrategy(), DDPStrategy(), DDPStrategy(static_graph=False)],
)
def test_one_device_and_ddp_are_not_refused(strategy: Any) -> None:
    require_supported(strategy)


@pytest.mark.parametrize("name", StrategyRegistry.available_strategies())
def test_of_registered_names_those_of_ddp_and_one_device_are_not_refused(name: str) -> None:
    if name.startswith(("ddp", "single_device")):
        refuse_named(name)
    else:
        with pytest.raises(UsageError, match=f"strategy {name} is not supported"):
            refuse_named(name)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (DDPStrategy(static_graph=True), OPTIONS["static_graph"][1]),
        (ModelParallelStrategy(), REFUSED["ModelParallelStrategy"]),
    ],
)
def test_a_trainer_of_ones_own_is_refused_before_data_are_prepared(
    strategy: Any, message: str, untouched: None, tmp_path: Path
) -> None:
    recipe = PhaseRecipe(torch.optim.AdamW)
    module = PromptTuner(10, recipe, recipe, "vit_demo_patch8_32", num_prompts=2)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        strategy=strategy,
        callbacks=[PromptCondensation(prompt_epochs=1, finetune_epochs=1)],
        default_root_dir=tmp_path,
        logger=False,
    )
    with pytest.raises(UsageError, match=message):
        trainer.fit(module, datamodule=DemoDataModule())
    assert not torch.distributed.is_initialized()
