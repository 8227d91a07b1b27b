"""Which of timm's models are prompted, and that all others are refused by name."""

import sys
from collections import defaultdict
from typing import Any

import pytest
import torch
from timm.models import SwinTransformer, list_models, model_entrypoint
from torch import nn

from miniature.backbones import assert_close, logits, shake, without_prompts
from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.models.registry import FAMILIES, prompted_class


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


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_model_of_a_supported_class_is_prompted_or_refused_by_its_block(
    registry: Any, every: bool
) -> None:
    """Without ``every``, only the smallest of each class."""
    refused = set()
    for model_class in FAMILIES:
        models = registry[model_class]
        smallest = min(models, key=lambda name: models[name].get("embed_dim", 768))
        for name in models if every else [smallest]:
            try:
                model = _miniature(model_class, name, models[name])
            except UsageError as error:
                refused.add(str(error).partition(" are not supported; supported: timm's")[0])
                continue
            shake(model)
            prefix = logits(model.eval())
            model.execution = "tokens"
            assert_close(prefix, logits(model), name)
            change = logits(without_prompts(model)) - prefix
            assert change.abs().max() > 1e-3 * prefix.abs().max(), name
    assert refused <= {
        "blocks with DiffAttention",
        "blocks with DiffParallelScalingBlock",
        "blocks with ParallelScalingBlock",
        "blocks with ParallelThingsBlock",
        "blocks with ResPostBlock",
    }


def test_every_other_class_of_timm_is_refused_by_name(registry: Any) -> None:
    others = set(registry) - set(FAMILIES)
    assert len(others) > 80
    for model_class in others:
        with pytest.raises(UsageError, match=rf"^{model_class.__name__} is not supported; ") as e:
            prompted_class(model_class.__new__(model_class))  # only its class is looked at
        for supported in FAMILIES:
            assert f"{supported.__name__} (" in str(e.value)


# Some that are built quickly.
TRANSFORMERS = {
    "Hiera",
    "MaxxVit",
    "NaFlexVit",
    "PoolingVisionTransformer",
    "SwinTransformerV2Cr",
    "VisionTransformerDistilled",
    "VisionTransformerRelPos",
    "VisionTransformerSAM",
}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_of_another_class_is_refused_when_it_is_asked_for(
    registry: Any, every: bool
) -> None:
    others = {kind.__name__: models for kind, models in registry.items() if kind not in FAMILIES}
    for kind in others if every else TRANSFORMERS:
        cheap = ("test", "tiny", "xs")
        name = min(others[kind], key=lambda name: (not any(s in name for s in cheap), name))
        with (
            torch.device("meta"),
            pytest.raises(UsageError, match=rf"^{kind} is not supported; supported: "),
        ):
            create_model(name, 5, 4, pretrained=False)
