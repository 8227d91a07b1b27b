"""Strategies that a run can't have are refused by name, with the reason, before data are read."""

import sys
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
from pcvpt.data import DemoDataModule, ImageDataModule
from pcvpt.errors import UsageError
from pcvpt.training import preflight
from pcvpt.training.preflight import check_strategy, require_supported

CLASSES = "lightning.pytorch.strategies"
REFUSED = ("fsdp", "deepspeed_stage_2", "xla", "ModelParallelStrategy", "FSDPStrategy")
OPTIONS = {"static_graph": True, "model_averaging_period": 4}


class Other(ParallelStrategy):
    """Somebody else's strategy."""

    broadcast = barrier = all_gather = reduce = model_to_device = root_device = None  # type: ignore


Other.__abstractmethods__ = frozenset()


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(ImageDataModule, "splits", property(fail))
    monkeypatch.setattr(ImageDataModule, "prepare_data", fail)


@pytest.mark.parametrize("name", [*REFUSED, *OPTIONS])
def test_the_command_refuses_a_strategy_before_it_reads_data(
    name: str, untouched: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    strategy: Any = {"class_path": f"{CLASSES}.{name}"} if name[0].isupper() else name
    if name in OPTIONS:
        init_args = {name: OPTIONS[name]}
        strategy = {"class_path": f"{CLASSES}.DDPStrategy", "init_args": init_args}
    (tmp_path / "more.yaml").write_text(yaml.dump({"trainer": {"strategy": strategy}}))
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "demo.yaml", "--config", str(tmp_path / "more.yaml")])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert name in said
    assert ("leave it out" if name in OPTIONS else "trainer.strategy=ddp") in said


UNSUPPORTED = {
    "FSDPStrategy": FSDPStrategy(),
    "ModelParallelStrategy": ModelParallelStrategy(),
    "Other": Other(),
    **{name: DDPStrategy(**{name: value}) for name, value in OPTIONS.items()},  # type: ignore
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_strategy_that_cannot_change_phase_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        require_supported(UNSUPPORTED[name])


@pytest.mark.parametrize(
    "strategy", [SingleDeviceStrategy(), DDPStrategy(), DDPStrategy(static_graph=False)]
)
def test_one_device_and_ddp_are_not_refused(strategy: Any) -> None:
    require_supported(strategy)


def test_of_registered_names_those_of_ddp_and_one_device_are_not_refused() -> None:
    for name in StrategyRegistry.available_strategies():
        options = {"trainer": {"strategy": name}}
        if name.startswith(("ddp", "single_device")):
            check_strategy("fit", options)
        else:
            with pytest.raises(UsageError, match=f"strategy {name} "):
                check_strategy("fit", options)


@pytest.mark.parametrize("name", ["static_graph", "ModelParallelStrategy"])
def test_a_trainer_made_in_python_is_refused_before_data_are_prepared(
    name: str, untouched: None, tmp_path: Path
) -> None:
    recipe = PhaseRecipe(torch.optim.AdamW)
    module = PromptTuner(10, recipe, recipe, "vit_demo_patch8_32", num_prompts=2)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        strategy=UNSUPPORTED[name],
        callbacks=[PromptCondensation(prompt_epochs=1, finetune_epochs=1)],
        default_root_dir=tmp_path,
        logger=False,
    )
    with pytest.raises(UsageError, match=name):
        trainer.fit(module, datamodule=DemoDataModule())
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("device", "variable"), [("cpu", "CXX"), ("cuda", "CC")])
def test_a_missing_compiler_is_named(
    device: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: name)
    monkeypatch.setenv(variable, "no-such-compiler -O2")
    with pytest.raises(UsageError, match=f"no-such-compiler.*{variable}"):
        preflight.require_compiler(device)
    monkeypatch.setenv(variable, sys.executable)
    preflight.require_compiler(device)


def test_a_gpu_needs_triton_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="triton"):
        preflight.require_compiler("cuda")
