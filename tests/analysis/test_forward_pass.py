from typing import Any

import pytest
import torch
from torch import Tensor

from pcvpt import create_model
from pcvpt.analysis.forward_pass import attention_to_prompts, features_and_logits

PROMPTS, IMAGES = 3, 2
VIT = {"depth": 3, "embed_dim": 48, "num_heads": 3}
SWIN = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "class_token": ("vit_tiny_patch16_224", {"img_size": 32, **VIT}),
    "average": ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg", **VIT}),
    "attention_pooling": ("vit_base_patch16_siglip_224", {"img_size": 32, **VIT}),
    "rotary": ("vit_small_patch16_dinov3", {"img_size": 32, "global_pool": "token", **VIT}),
    "beit": ("beit_base_patch16_224", {"img_size": 32, "global_pool": "token", **VIT}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, **SWIN}),
}


def _model(case: str, **options: Any) -> Any:
    torch.manual_seed(0)
    name, size = CASES[case]
    model = create_model(name, 5, PROMPTS, pretrained=False, **size, **options).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def _images(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = model.patch_embed.img_size
    return torch.randn(IMAGES, 3, *size, generator=generator, dtype=torch.float64)


def _mask(model: Any) -> None:
    keep = torch.ones_like(model.prompts.keep)
    keep[0, 1] = False
    keep[-1] = len(keep) == 1 and keep[-1]
    model.prompts.apply_mask(list(keep))


def test_attention_of_the_class_token_is_what_its_query_and_all_keys_say() -> None:
    model = _model("class_token", execution="tokens")
    images, entered = _images(model), []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    found = attention_to_prompts(model, images)
    for block, x, row in zip(model.blocks, entered, found, strict=True):
        heads = block.attn.qkv(x).unflatten(2, (3, 3, -1))  # b n parts h c
        q, k = heads[:, 0, 0], heads[:, :, 1]
        weights = (torch.einsum("bhc,bnhc->bhn", q, k) * q.shape[-1] ** -0.5).softmax(2)
        expected = weights[..., -PROMPTS:].mean((0, 1))
        torch.testing.assert_close(row, expected.float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", ["deep", "shallow"])
@pytest.mark.parametrize("case", CASES)
def test_attention_does_not_depend_on_how_prompts_are_computed(case: str, mode: str) -> None:
    model = _model(case, mode=mode)
    _mask(model)
    images = _images(model)
    prefix = attention_to_prompts(model, images)
    model.execution = "tokens"
    torch.testing.assert_close(
        attention_to_prompts(model, images), prefix, rtol=1e-5, atol=1e-7, equal_nan=True
    )
    assert prefix.shape == (len(model.blocks), PROMPTS)
    keep = model.prompts.keep.expand(len(model.blocks), -1)
    assert torch.equal(prefix.isfinite(), keep)
    assert bool((prefix[keep] > 0).all())
    assert bool((prefix.nansum(1) < 1).all())


def test_each_window_of_swin_counts_the_same() -> None:
    model = _model("swin")
    images, weights = _images(model), []
    attention = model.blocks[1].attn
    attention.register_forward_pre_hook(
        lambda part, args, kwargs: weights.append(part.attention_map(*args, **kwargs)),
        with_kwargs=True,
    )
    found = attention_to_prompts(model, images)
    rows = weights[0][..., -PROMPTS:]  # b, windows and heads, patches, prompts
    torch.testing.assert_close(found[1], rows.mean((0, 1, 2)).float())


def test_a_linear_probe_gives_no_attention_to_prompts() -> None:
    model = create_model("vit_tiny_patch16_224", 5, 0, mode="linear", pretrained=False, **VIT)
    assert attention_to_prompts(model, torch.randn(1, 3, 224, 224)).shape == (3, 0)


@pytest.mark.parametrize("case", CASES)
def test_features_are_what_the_head_makes_logits_of(case: str) -> None:
    model = _model(case)
    images = _images(model)
    with torch.no_grad():
        seen = features_and_logits(model, images)
        torch.testing.assert_close(model.get_classifier()(seen.features), seen.logits)
        torch.testing.assert_close(seen.logits, model(images))
    assert not model.get_classifier()._forward_pre_hooks
