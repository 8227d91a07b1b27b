"""The fingerprint tells the weights of backbones apart, and nothing else."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from pcvpt.models import create_model
from pcvpt.models.weights.fingerprint import fingerprint

TINY: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}


def _plain(**options: Any) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", **{"img_size": 32, **TINY, **options})


def test_prompts_and_head_leave_it_as_it_was(mode: str) -> None:
    options: Any = {"mode": mode, "pretrained": False, "img_size": 32, **TINY}
    prompted = create_model("vit_tiny_patch16_224", 5, 4, **options)
    before = fingerprint(prompted)
    for parameter in prompted.parameters():
        if parameter.requires_grad:
            parameter.data += 1
    assert fingerprint(prompted) == before
    plain = _plain(num_classes=7)
    assert fingerprint(plain) != before
    own = plain.state_dict()
    state = prompted.state_dict()
    plain.load_state_dict({k: own[k] if k.startswith("head") else state[k] for k in own})
    assert fingerprint(plain) == before


@pytest.mark.parametrize("name", ["cls_token", "blocks.1.attn.qkv.bias", "norm.weight"])
def test_the_last_bit_of_any_weight_changes_it(name: str) -> None:
    model = _plain()
    before = fingerprint(model)
    values = model.get_parameter(name).data.flatten()
    values[-1] = torch.nextafter(values[-1], torch.tensor(9.0))
    assert fingerprint(model) != before


def test_a_persistent_buffer_counts() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    before = fingerprint(model)
    model[0].running_mean += 1
    assert fingerprint(model) != before


def test_the_image_size_does_not_change_it() -> None:
    small, large = _plain(), _plain(img_size=64)
    state = {k: v for k, v in small.state_dict().items() if k != "pos_embed"}
    assert fingerprint(large) != fingerprint(small)
    large.load_state_dict(state, strict=False)
    assert fingerprint(large) == fingerprint(small)


def test_only_a_precision_that_rounds_the_values_changes_it() -> None:
    model = _plain()
    assert fingerprint(model) != fingerprint(model.to(torch.bfloat16))
    assert fingerprint(model) == fingerprint(model.float()) == fingerprint(model.double())
    assert len(fingerprint(model)) == 16
    assert int(fingerprint(model), 16) > 0


def test_swins_tables_of_relative_position_are_left_out_and_its_weights_are_not() -> None:
    sizes: Any = {"depths": (1, 1), "num_heads": (2, 4), "embed_dim": 16}
    model = timm.create_model("swin_tiny_patch4_window7_224", **sizes)
    before = fingerprint(model)
    attention = model.get_submodule("layers.1.blocks.0.attn")
    attention.relative_position_bias_table.data += 1
    assert fingerprint(model) == before
    attention.qkv.weight.data += 1
    assert fingerprint(model) != before


@pytest.mark.gpu
def test_it_does_not_depend_on_the_device() -> None:
    model = _plain()
    assert fingerprint(model) == fingerprint(model.cuda())
