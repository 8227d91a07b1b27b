"""Each config of a backbone names weights that timm has, and goes after a task's config."""

from pathlib import Path

import pytest
import timm
import torch
import yaml

from pcvpt.cli.config_files import CONFIGS
from pcvpt.cli.main import main
from pcvpt.models import create_model

BACKBONES = sorted((CONFIGS / "backbones").glob("*.yaml"))
LOCAL = {"mocov3_b16.yaml"}  # weights that timm does not have
backbones = pytest.mark.parametrize("path", BACKBONES, ids=lambda path: path.stem)


@backbones
def test_a_backbone_goes_after_a_task(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "cars.yaml", "--config", path.name, "--print_config"])
    assert not end.value.code
    merged = yaml.safe_load(capsys.readouterr().out)
    own = yaml.safe_load(path.read_text())
    assert own.keys() == {"model"}
    assert {name: merged["model"][name] for name in own["model"]} == own["model"]
    assert merged["data"]["class_path"] == "pcvpt.data.StanfordCars"
    assert merged["model"]["prompt"]["weight_decay"] == 0.0001  # of the task


@backbones
def test_timm_has_the_weights_that_the_name_and_its_tag_say(path: Path) -> None:
    model = yaml.safe_load(path.read_text())["model"]
    if path.name in LOCAL:
        assert timm.is_model(model["backbone"])
        assert "." not in model["backbone"]  # a tag would promise weights of timm's
        assert isinstance(model["pretrained"], str)
    else:
        assert model["backbone"] in timm.list_pretrained()
        assert "." in model["backbone"]
        assert model.get("pretrained", True) is True


@backbones
def test_the_backbone_takes_prompts_at_its_image_size(path: Path) -> None:
    section = yaml.safe_load(path.read_text())["model"]
    size = {"img_size": section["image_size"]} if "image_size" in section else {}
    with torch.device("meta"):
        model = create_model(
            section["backbone"], 196, section.get("num_prompts", 10), pretrained=False, **size
        )
    assert tuple(model.patch_embed.img_size) == (224, 224)
    assert model.head is not None


def test_the_backbone_of_the_papers_is_that_of_base() -> None:
    base, own = (
        yaml.safe_load((CONFIGS / name).read_text())["model"]["backbone"]
        for name in ("base.yaml", "backbones/vit_b16_in21k.yaml")
    )
    assert base == own


def test_swin_takes_a_number_of_prompts_from_the_papers_grid() -> None:
    section = yaml.safe_load((CONFIGS / "backbones" / "swin_b.yaml").read_text())["model"]
    assert section["num_prompts"] in (1, 5, 10, 50)
