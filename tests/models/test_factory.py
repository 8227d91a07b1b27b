"""What create_model builds, and what it refuses."""

import math
from typing import Any

import pytest
import torch

from pcvpt.errors import UsageError
from pcvpt.models import create_model

TINY: dict[str, Any] = {"img_size": 32, "depth": 2, "pretrained": False}


def _tiny(backbone: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    return create_model(backbone, **{"num_classes": 5, "num_prompts": 4, **TINY, **options})


# layers x width x prompts + (width + 1) x classes: dmlab, EuroSAT, SUN397 as in the VPT release
@pytest.mark.parametrize(
    ("num_prompts", "num_classes", "trained"),
    [(100, 6, 926_214), (100, 10, 929_290), (5, 397, 351_373)],
)
def test_trained_parameters_are_those_of_the_release(
    num_prompts: int, num_classes: int, trained: int
) -> None:
    with torch.device("meta"):  # shapes only
        model = create_model("vit_base_patch16_224", num_classes, num_prompts, pretrained=False)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def test_shallow_has_one_layer_of_prompts_and_linear_none() -> None:
    assert _tiny().prompts.values.shape == (2, 4, 192)
    assert _tiny(mode="shallow").prompts.values.shape == (1, 4, 192)
    assert _tiny(mode="linear", num_prompts=0).prompts.values.shape == (0, 0, 192)


@pytest.mark.parametrize(
    ("backbone", "options", "bound"),
    [
        ("vit_base_patch16_224", {"depth": 1}, 0.0625),
        ("vit_tiny_patch16_224", {}, math.sqrt(6 / (3 * 256 + 192))),
        ("vit_tiny_patch16_224", {"patch_size": (16, 8)}, math.sqrt(6 / (3 * 128 + 192))),
    ],
)
def test_prompts_start_uniform_within_the_papers_bound(
    backbone: str, options: dict[str, Any], bound: float
) -> None:
    values = _tiny(backbone, num_prompts=100, **options).prompts.values.detach()
    assert values.abs().max().item() <= bound
    assert values.abs().max().item() == pytest.approx(bound, rel=1e-2)
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=1e-2)
    assert values.mean().item() == pytest.approx(0, abs=bound / 50)


def test_the_head_starts_at_zero() -> None:
    model = _tiny(num_classes=200)
    assert not model.head.weight.any()
    assert not model.head.bias.any()


def test_the_head_starts_as_the_papers() -> None:
    model = _tiny(num_classes=200, head_init="vpt")
    torch.testing.assert_close(model.head.bias.detach(), torch.full((200,), -math.log(99)))
    assert model.head.weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=2e-2)


def test_the_same_seed_builds_the_same_model() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(dict(_tiny().state_dict()))
    torch.testing.assert_close(*states, rtol=0, atol=0, equal_nan=True)  # no scores yet: NaN


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_init": "one"}, "head_init='one'; choose one of zero, vpt"),
        ({"num_prompts": 0}, "num_prompts=0; give at least 1, or mode 'linear'"),
        ({"num_prompts": -3}, "num_prompts=-3; give at least 1"),
        ({"num_prompts": 10**12}, "num_prompts=1000000000000 needs .* GB; use fewer"),
        ({"mode": "linear"}, "num_prompts=4 in mode 'linear', which has none; give 0"),
        ({"mode": "wide"}, "mode='wide'; choose one of deep, prefix, shallow, linear"),
        ({"execution": "fast"}, "execution='fast'; choose one of prefix, tokens"),
        ({"prompt_dropout": 1.0}, r"prompt_dropout=1.0; give a probability in \[0, 1\)"),
        ({"prompt_dropout": -0.1}, "prompt_dropout=-0.1"),
        ({"prompt_dropout": float("nan")}, "prompt_dropout=nan"),
        ({"num_classes": 1}, "num_classes=1; a classifier needs at least 2"),
        ({"img_size": 40}, "image size 40 .* patch size 16; take 32 or 48"),
        ({"img_size": (32, 50)}, "image size 50 .* patch size 16; take 48 or 64"),
        ({"img_size": 40, "dynamic_img_size": True}, "image size 40 .* take 32 or 48"),
        ({"embed_dims": 8}, "could not be built: .*embed_dims"),
        ({"img_size": 0}, "at least one patch"),
        ({"img_size": -16}, "at least one patch"),
        ({"img_size": (32, 0)}, "at least one patch"),
        ({"depth": 0}, "has no block"),
        ({"backbone": "vit_tinny_patch16_224"}, "unknown backbone.*vit_tiny_patch16_224"),
        ({"backbone": "qqqqqq"}, "unknown backbone 'qqqqqq'.*timm.list_models"),
        ({"attn_layer": "diff"}, r"\bDiffAttention\b.*not supported; supported: timm's"),
        (
            {"backbone": "vit_small_patch16_18x2_224"},
            r"\bParallelThingsBlock\b.*not supported; supported: timm's",
        ),
        (
            {"backbone": "beit_base_patch16_224", "dynamic_img_size": True},
            "beit_base_patch16_224.*dynamic_img_size",
        ),
        ({"pool_prompts": True}, "'vit_tiny_patch16_224' is no Swin"),
    ],
)
def test_what_can_not_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _tiny(**options)


@pytest.mark.parametrize(
    ("backbone", "options", "said"),
    [
        ("resnet18.a1_in1k", {}, "ResNet is not supported"),
        ("vit_tiny_patch16_224.augreg_in21k", {"img_size": 40}, "no multiple of the patch size"),
        ("vit_tiny_patch16_224.augreg_in21k", {"depth": 0}, "has no block"),
    ],
)
def test_a_backbone_is_refused_before_its_weights_are_downloaded(
    backbone: str, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = list[object]()
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **_: downloads.append(a))
    with pytest.raises(UsageError, match=said):
        create_model(backbone, 5, 4, **options)
    assert not downloads
    create_model("vit_tiny_patch16_224.augreg_in21k", 5, 4, depth=1)
    assert len(downloads) == 1
