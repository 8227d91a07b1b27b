"""Backbone weights from a local file, and the weights that ship with the package."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from pcvpt.errors import UsageError
from pcvpt.models import PromptedVisionTransformer, create_model
from pcvpt.models.demo import WEIGHTS

SIZE: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def _plain(shake: Callable[[nn.Module], None], **options: Any) -> nn.Module:
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=7, **SIZE, **options)
    shake(plain)
    return plain


def _write(state: dict[str, Tensor], path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def _load(path: Path | str, backbone: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    arguments = {"img_size": 32, **SIZE, **options}
    return create_model(backbone, 5, 4, pretrained=path, **arguments)


def _backbone(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {k: v for k, v in state.items() if not k.startswith(("head.", "prompts."))}


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.pt"])
@pytest.mark.parametrize("kind", [Path, str])
def test_a_saved_backbone_comes_back(
    shake: Any, tmp_path: Path, name: str, kind: Callable[[Path], Path | str]
) -> None:
    plain = _plain(shake, img_size=32)
    model = _load(kind(_write(plain.state_dict(), tmp_path / name)))
    loaded, saved = _backbone(model), _backbone(plain)
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_the_head_of_the_file_is_not_taken(shake: Any, tmp_path: Path) -> None:
    plain = _plain(shake, img_size=32)
    model = _load(_write(plain.state_dict(), tmp_path / "w.pth"))
    assert model.head.out_features == 5
    torch.testing.assert_close(model.head.bias.detach(), torch.full((5,), -math.log(99)))


def test_a_file_without_a_head_is_taken(shake: Any, tmp_path: Path) -> None:
    plain = _plain(shake, img_size=32)
    model = _load(_write(_backbone(plain), tmp_path / "w.safetensors"))
    assert torch.equal(model.cls_token, plain.cls_token)


def test_positions_are_resampled_to_another_image_size(shake: Any, tmp_path: Path) -> None:
    plain = _plain(shake, img_size=32)
    path = _write(plain.state_dict(), tmp_path / "w.safetensors")
    model = _load(path, img_size=64)
    loaded, saved = _backbone(model), _backbone(plain)
    positions = resample_abs_pos_embed(saved.pop("pos_embed"), [4, 4], num_prefix_tokens=1)
    assert positions.shape == (1, 17, 48)
    torch.testing.assert_close(loaded.pop("pos_embed"), positions)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_dinov2_under_its_original_names_is_understood(shake: Any, tmp_path: Path) -> None:
    name, size = "vit_small_patch14_reg4_dinov2", {**SIZE, "img_size": 28}
    plain = timm.create_model(name, num_classes=0, **size)
    shake(plain)
    state = dict(plain.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 48)
    # There the class token has a position of its own; timm adds it to the token.
    class_position = torch.randn(1, 1, 48)
    state["cls_token"] = state["cls_token"] - class_position
    state["pos_embed"] = torch.cat([class_position, state["pos_embed"]], dim=1)
    model = _load(_write(state, tmp_path / "dinov2.pth"), name, img_size=28)
    for key, expected in _backbone(plain).items():
        torch.testing.assert_close(_backbone(model)[key], expected, msg=key)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.pth: no such weights file; give a"):
        _load(tmp_path / "nothing.pth")
    with pytest.raises(UsageError, match="no such weights file"):
        _load(tmp_path)


@pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a state dict" * 10)
    with pytest.raises(UsageError, match=rf"{name}: not a readable ViT state dict"):
        _load(tmp_path / name)


def test_a_truncated_file_is_named(shake: Any, tmp_path: Path) -> None:
    path = _write(_plain(shake, img_size=32).state_dict(), tmp_path / "half.safetensors")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"half\.safetensors: not a readable ViT state dict"):
        _load(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, r"missing: blocks\.2\.attn\.proj\.bias.* \.\.\."),
        ({"depth": 1}, r"unknown: blocks\.1\."),
        ({"embed_dim": 60}, "of another shape: blocks"),
    ],
)
def test_weights_of_another_model_are_refused(
    shake: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = _write(_plain(shake, img_size=32).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=rf"w\.pth: the tensors do not fit .*{message}"):
        _load(path, **options)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = _write({"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "r.pth")
    with pytest.raises(UsageError, match=r"2 unknown: conv1\.weight, fc\.bias"):
        _load(path)


@pytest.fixture(scope="module")
def demo() -> PromptedVisionTransformer:
    return create_model("vit_demo_patch8_32", 10, 4)


def test_the_demo_ships_with_its_weights(demo: PromptedVisionTransformer) -> None:
    assert WEIGHTS.stat().st_size <= 4_000_000
    shipped = load_file(WEIGHTS)
    state = _backbone(demo)
    assert state.keys() == shipped.keys()
    for name, value in shipped.items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], value.float()), name


def test_the_demos_weights_load_as_a_local_file_too(demo: PromptedVisionTransformer) -> None:
    local = create_model("vit_demo_patch8_32", 10, 4, pretrained=WEIGHTS)
    assert all(torch.equal(v, _backbone(demo)[k]) for k, v in _backbone(local).items())


def test_the_demo_takes_larger_images_with_its_weights() -> None:
    model = create_model("vit_demo_patch8_32", 10, 4, img_size=64)
    assert model.pos_embed.shape == (1, 65, 160)
    assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()
