"""What stays timm's: names, weights, outputs, evaluation mode."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pcvpt.models import PromptedVisionTransformer, create_model

CLASSES = 5


def _timm(model: PromptedVisionTransformer, **options: Any) -> nn.Module:
    """Return timm's own model with the weights of ``model``."""
    size = {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 32, "num_classes": CLASSES}
    plain = timm.create_model("vit_tiny_patch16_224", **{**size, **options})
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("prompts.")}
    plain.load_state_dict(weights)  # strict: every name, no other
    return plain.eval()


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def test_a_linear_probe_in_tokens_is_timms_model_bit_for_bit(build: Any, images: Any) -> None:
    model = build(mode="linear", num_prompts=0, execution="tokens")
    assert torch.equal(_logits(model, images(model)), _logits(_timm(model), images(model)))


def test_a_linear_probe_in_prefix_is_timms_model(build: Any, images: Any) -> None:
    model = build(mode="linear", num_prompts=0)
    expected = _logits(_timm(model), images(model))
    assert (_logits(model, images(model)) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_with_every_prompt_masked_the_model_is_timms(build: Any, images: Any, mode: str) -> None:
    model = build(mode=mode, execution="tokens")
    expected = _logits(_timm(model), images(model))
    assert not torch.equal(_logits(model, images(model)), expected)
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
    assert torch.equal(_logits(model, images(model)), expected)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "init_values": 0.1, "reg_tokens": 2}])
def test_parameters_keep_timms_names(build: Any, mode: str, options: dict[str, Any]) -> None:
    model = build(mode=mode, **options)
    plain = _timm(model, **options)
    names = {name for name, _ in model.named_parameters()}
    assert names == {name for name, _ in plain.named_parameters()} | {"prompts.values"}
    state = {"prompts.values", "prompts.keep", "prompts.scores"}
    assert set(model.state_dict()) == set(plain.state_dict()) | state
    assert len(list(model.parameters())) == len(list(plain.parameters())) + 1


@pytest.mark.parametrize("mode", ["deep", "shallow", "linear"])
def test_only_prompts_and_head_train(build: Any, images: Any, backbone: str, mode: str) -> None:
    model = build(backbone, mode=mode, num_prompts=0 if mode == "linear" else 4)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    # A linear probe's empty prompts are not trained: distributed training would wait for them.
    prompts = set() if mode == "linear" else {"prompts.values"}
    assert trained == {"head.weight", "head.bias"} | prompts
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()(images(model)).square().sum().backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p.detach(), before[n])}
    assert moved == trained - ({"prompts.values"} if mode == "linear" else set())


DROPS = {
    "drop_rate": 0.5,
    "pos_drop_rate": 0.5,
    "patch_drop_rate": 0.5,
    "proj_drop_rate": 0.5,
    "attn_drop_rate": 0.5,
    "drop_path_rate": 0.5,
}


def test_the_backbone_stays_in_evaluation_mode(build: Any, mode: str) -> None:
    model = build(mode=mode, **DROPS)
    outer = nn.Sequential(model)  # as a LightningModule holds it
    for _ in range(2):
        outer.train()
        assert model.training
        training = {name for name, module in model.named_modules() if module.training and name}
        assert training == {"prompts", "head", "head_drop"}
        outer.eval()
        assert not any(module.training for module in model.modules())


def test_the_backbones_own_dropout_is_off_while_training(
    build: Any, images: Any, mode: str, execution: str
) -> None:
    model = build(mode=mode, execution=execution, **{**DROPS, "drop_rate": 0.0})
    expected = _logits(model, images(model))
    assert torch.equal(_logits(model.train(), images(model)), expected)


@pytest.mark.parametrize("option", ["prompt_dropout", "drop_rate"])
def test_dropout_of_prompts_and_head_follows_the_mode(
    build: Any, images: Any, mode: str, execution: str, option: str
) -> None:
    model = build(mode=mode, execution=execution, **{option: 0.5})
    quiet = _logits(model, images(model))
    first, second = _logits(model.train(), images(model)), _logits(model, images(model))
    assert not torch.equal(first, second)
    assert torch.equal(_logits(model.eval(), images(model)), quiet)


def test_another_pooling_makes_the_last_block_compute_its_rows() -> None:
    model = create_model("vit_tiny_patch16_224", 3, 4, pretrained=False, img_size=32, depth=2)
    model.reset_classifier(3, "avg")
    images = torch.randn(2, 3, 32, 32)
    prefix = model(images)
    model.execution = "tokens"
    torch.testing.assert_close(prefix, model(images), rtol=1e-5, atol=1e-5)
    assert prefix.isfinite().all()
