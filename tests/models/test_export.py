"""Models that leave eager PyTorch: exported, quantized; and batches without images."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from miniature.backbones import (
    CLASSES,
    WAYS,
    assert_close,
    build,
    images,
    logits,
    masked,
)
from pcvpt.condensation import merge_prompts
from pcvpt.models.joint_attention import JointAttention

every_way = pytest.mark.parametrize(("mode", "execution"), WAYS)


def _model(backbone: str, mode: str, execution: str = "prefix", variant: str = "") -> Any:
    model = masked(build(backbone, mode=mode, execution=execution))
    if variant == "merged":
        model.prompts.apply_merge(merge_prompts(model, [(images(model),)], 0.5))
    return model.freeze_prompts() if variant == "frozen" else model


@every_way
def test_an_empty_batch_has_empty_logits(backbone: str, mode: str, execution: str) -> None:
    model = _model(backbone, mode, execution)
    nothing = images(model)[:0]
    for training in (False, True):
        found = model.train(training)(nothing)
        assert found.shape == (0, CLASSES)
        found.sum().backward()
    assert logits(model.eval(), nothing).shape == (0, CLASSES)


def test_attention_of_no_images_does_not_end_the_process() -> None:
    q, prompts = torch.zeros(0, 1, 2, 5, 8), torch.zeros(1, 2, 3, 8, requires_grad=True)
    assert JointAttention(q, q, q, prompts, prompts).attend().shape == q.shape


@pytest.mark.parametrize(
    ("backbone", "mode", "variant"),
    [
        ("class_token", "deep", "as trained"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in product(
                ["class_token", "dinov3", "swin_pooled"],
                ["deep", "shallow"],
                ["as trained", "merged", "frozen"],
            )
        ),
    ],
)
def test_an_exported_model_predicts_the_same_for_every_batch_size(
    backbone: str, mode: str, variant: str
) -> None:
    model = _model(backbone, mode, variant=variant)
    sizes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(model, (images(model),), dynamic_shapes=sizes, strict=False)
    for size in (1, 3, 5):
        batch = images(model, size)
        assert_close(exported.module()(batch), logits(model, batch))


@pytest.mark.filterwarnings("ignore:(?s).*quantiz")
@every_way
def test_a_quantized_model_predicts_nearly_the_same(
    backbone: str, mode: str, execution: str
) -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    model = _model(backbone, mode, execution)
    try:
        quantized = quantization.quantize_dynamic(model, {nn.Linear})
    except RuntimeError as error:  # of a build of PyTorch without integer kernels
        pytest.skip(str(error))
    assert not any(type(part) is nn.Linear for part in quantized.modules())
    assert_close(logits(quantized, images(model)), logits(model), tolerance=0.2)
