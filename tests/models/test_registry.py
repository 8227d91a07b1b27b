"""Which of timm's models are prompted, and that all others are refused by name."""

import sys
from collections import defaultdict
from typing import Any

import pytest
import torch
from timm.models import SwinTransformer, list_models, model_entrypoint
from torch import Tensor, nn

from miniature.backbones import shake
from pcvpt.errors import UsageError
from pcvpt.models import PromptedTransformer, create_model
from pcvpt.models.registry import FAMILIES, prompted_class


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


class _Found(Exception):
    """Carries what timm would have built."""


@pytest.fixture(scope="module")
def registry() -> dict[type[nn.Module], dict[str, dict[str, Any]]]:
    """Return, for each of timm's classes, its models with their arguments; nothing is built."""

    def find(model_class: type[nn.Module], *_: Any, **options: Any) -> None:
        raise _Found(model_class, options)

    found: dict[type[nn.Module], dict[str, dict[str, Any]]] = defaultdict(dict)
    with pytest.MonkeyPatch.context() as patch:
        for name in list_models():
            entrypoint = model_entrypoint(name)
            module = sys.modules[entrypoint.__module__]
            if not hasattr(module, "build_model_with_cfg"):
                continue  # the demo's backbone, of this package
            patch.setattr(module, "build_model_with_cfg", find)
            try:
                entrypoint()
            except _Found as error:
                model_class, options = error.args
                found[model_class][name] = options
    return found


def _miniature(model_class: type[nn.Module], name: str, options: dict[str, Any]) -> Any:
    """Return the prompted model of ``name``, with its own parts but few and narrow blocks."""
    size: dict[str, Any]
    if model_class is SwinTransformer:
        size = {"depths": (1, 1), "embed_dim": 24, "num_heads": (2, 4), "window_size": 4}
        return create_model(name, 5, 4, pretrained=False, img_size=32, **size)
    size = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    size["img_size"] = 2 * options.get("patch_size", 16)
    if "embed_layer" in options:  # a stem that fixes the width
        size = {"depth": 2, "img_size": 64}
    if "num_kv_heads" in options:  # one for each block of the whole model
        size["num_kv_heads"] = 1
    return create_model(name, 5, 4, pretrained=False, **size)


def _difference_of_executions(model: PromptedTransformer) -> float:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *model.patch_embed.img_size, generator=generator)
    model.eval()
    prefix = _logits(model, images)
    model.execution = "tokens"
    tokens = _logits(model, images)
    return float((prefix - tokens).abs().max() / tokens.abs().max())


def test_the_smallest_of_every_supported_family_is_prompted(registry: Any) -> None:
    for model_class in FAMILIES:
        models = registry[model_class]
        name = min(models, key=lambda name: models[name].get("embed_dim", 768))
        model = _miniature(model_class, name, models[name])
        shake(model)
        batch = torch.randn(2, 3, *model.patch_embed.img_size)
        whole = _logits(model.eval(), batch)
        assert _difference_of_executions(model) <= 5e-5, name
        model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
        assert (_logits(model, batch) - whole).abs().max() > 1e-3 * whole.abs().max(), name


def test_every_other_class_of_timm_is_refused_by_name(registry: Any) -> None:
    others = set(registry) - set(FAMILIES)
    assert len(others) > 80
    for model_class in others:
        with pytest.raises(UsageError, match=rf"^{model_class.__name__} is not supported; ") as e:
            prompted_class(model_class.__new__(model_class))  # only its class is looked at
        for supported in FAMILIES:
            assert f"{supported.__name__} (" in str(e.value)


# Some that are built quickly; a slow test builds one of every class.
TRANSFORMERS = [
    "Hiera",
    "MaxxVit",
    "NaFlexVit",
    "PoolingVisionTransformer",
    "SwinTransformerV2Cr",
    "VisionTransformerDistilled",
    "VisionTransformerRelPos",
    "VisionTransformerSAM",
]


def _built_cheaply(models: dict[str, Any]) -> str:
    """Return the name that promises the smallest model."""
    return min(models, key=lambda name: (not any(s in name for s in ("test", "tiny", "xs")), name))


def _refuse(model_class: type[nn.Module], models: dict[str, Any]) -> None:
    with (
        torch.device("meta"),
        pytest.raises(UsageError, match=rf"^{model_class.__name__} is not supported; supported: "),
    ):
        create_model(_built_cheaply(models), 5, 4, pretrained=False)


def test_other_transformers_are_refused_when_they_are_asked_for(registry: Any) -> None:
    classes = {model_class.__name__: model_class for model_class in registry}
    for name in TRANSFORMERS:
        _refuse(classes[name], registry[classes[name]])


@pytest.mark.slow
def test_every_class_that_is_not_supported_is_refused_when_asked_for(registry: Any) -> None:
    for model_class in set(registry) - set(FAMILIES):
        _refuse(model_class, registry[model_class])


@pytest.mark.slow
def test_every_model_of_a_supported_class_is_prompted_or_refused_by_its_block(
    registry: Any,
) -> None:
    refused = set()
    models = [(kind, *item) for kind in FAMILIES for item in registry[kind].items()]
    for model_class, name, options in models:
        try:
            model = _miniature(model_class, name, options)
        except UsageError as error:
            refused.add(str(error).partition(" are not supported; supported: timm's")[0])
            continue
        shake(model)
        assert _difference_of_executions(model) <= 5e-5, name
    assert refused <= {
        "blocks with DiffAttention",
        "blocks with DiffParallelScalingBlock",
        "blocks with ParallelScalingBlock",
        "blocks with ParallelThingsBlock",
        "blocks with ResPostBlock",
    }
