"""Shipped configs are valid, name weights that timm has, and the demo trains by each method."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from pcvpt.cli.config_errors import parse
from pcvpt.cli.config_files import CONFIGS, expand
from pcvpt.cli.main import main
from pcvpt.models import create_model

from .conftest import SMALL, Command

SHIPPED = sorted(path for path in CONFIGS.rglob("*.yaml") if path.name != "base.yaml")
BACKBONES = [path for path in SHIPPED if CONFIGS / "backbones" in path.parents]
METHODS = {
    "condensation": (6, 20, 12),
    "vpt.yaml": (6, 20, 120),
    "linear.yaml": (0, 0, 0),
    "shallow.yaml": (1, 20, 2),
    "prefix.yaml": (6, 20, 12),
}
"""Layers, prompts of each, and prompts kept in all, of the demo by each method."""
QUICK = {"dinov3_s16", "dinov2_s14_reg", "mocov3_b16"}  # in every run of the tests
LOCAL = {"mocov3_b16.yaml"}  # weights that timm does not have


def _own(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path) -> None:
    first = "cars.yaml" if path in BACKBONES else "demo.yaml"
    config = parse("fit", expand(["--config", first, "--config", path.name])[0]).as_dict()
    for section in _own(path).keys() & {"model", "condense"}:
        given = {k: v for k, v in _own(path)[section].items() if not isinstance(v, dict)}
        assert given == {name: config[section][name] for name in given}
    assert config["model"]["prompt"]["optimizer"]["class_path"]
    assert config["seed_everything"] == 42
    every, condense = config["trainer"]["check_val_every_n_epoch"], config["condense"]
    for phase in "prompt_epochs", "finetune_epochs":  # each ends with a validation
        assert condense[phase] % (every or 1) == 0
    if path in BACKBONES:
        assert _own(path).keys() == {"model"}
        assert config["data"]["class_path"] == "pcvpt.data.StanfordCars"
        assert config["model"]["prompt"]["weight_decay"] == 0.0001  # of the task


@pytest.mark.parametrize(
    ("names", "start"),
    [
        (["folder.yaml"], ("zero", "uniform")),
        (["folder.yaml", "vpt.yaml"], ("zero", "uniform")),
        (["cars.yaml"], ("vpt", "uniform")),
        (["dtd.yaml", "vit_l16.yaml"], ("vpt", "uniform")),
        (["dtd.yaml", "dinov2_s14.yaml"], ("zero", "tokens")),
        (["folder.yaml", "siglip_b16.yaml", "linear.yaml"], ("zero", "uniform")),
    ],
)
def test_head_and_prompts_start_as_the_learning_rates_need(
    names: list[str], start: tuple[str, str]
) -> None:
    model = parse("fit", expand([f"--config={name}" for name in names])[0])["model"]
    assert (model.head_init, model.prompt_init) == start


@pytest.mark.parametrize(("own", "name"), [("{}", "demo_own_vpt"), ("name: chosen", "chosen")])
def test_the_whole_configuration_is_printed_with_its_name(
    own: str, name: str, command: Command, work: Path
) -> None:
    (work / "own.yaml").write_text(own)
    configs = ("--config=demo.yaml", "--config=own.yaml", "--config=vpt.yaml")
    ended = command("fit", *configs, "--print_config")
    assert ended.status == 0
    config = yaml.safe_load(ended.output)
    assert (config["name"], config["condense"]["keep"]) == (name, None)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_demo_trains_by_each_method(method: str, tmp_path: Path) -> None:
    configs = ["--config", method] if method.endswith(".yaml") else []
    options = ["--name=run", "--output_dir", str(tmp_path)]
    main(["fit", "--config", "demo.yaml", *configs, *SMALL, *options])
    states = {
        path.stem: torch.load(path, weights_only=True)["state_dict"]
        for path in (tmp_path / "run" / "version_0" / "checkpoints").iterdir()
    }
    keep = states.get("finetune-last", states["prompt-last"])["model.prompts.keep"]
    assert (*keep.shape, int(keep.sum())) == METHODS[method]
    assert ("finetune-last" in states) == (method not in ("vpt.yaml", "linear.yaml"))


@pytest.mark.parametrize(
    "path",
    [p if p.stem in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in BACKBONES],
    ids=lambda path: path.stem,
)
def test_timm_has_the_weights_of_a_backbone_and_it_takes_prompts(path: Path) -> None:
    section = _own(path)["model"]
    name, pretrained = section["backbone"], section.get("pretrained", True)
    if path.name in LOCAL:  # a tag would promise weights of timm's
        assert (timm.is_model(name), "." in name, type(pretrained)) == (True, False, str)
    else:
        assert (name in timm.list_pretrained(), "." in name, pretrained) == (True, True, True)
    size = {"img_size": section["image_size"]} if "image_size" in section else {}
    with torch.device("meta"):
        prompts = section.get("num_prompts", 10)
        model = create_model(name, 196, prompts, pretrained=False, **size)
    assert tuple(model.patch_embed.img_size) == (224, 224)
    assert model.head is not None


def test_the_backbone_of_base_is_that_of_the_papers() -> None:
    base, papers = (_own(CONFIGS / n) for n in ("base.yaml", "backbones/vit_b16_in21k.yaml"))
    assert base["model"]["backbone"] == papers["model"]["backbone"]
    swin = _own(CONFIGS / "backbones" / "swin_b.yaml")["model"]
    assert swin["num_prompts"] in (1, 5, 10, 50)  # the papers' grid
