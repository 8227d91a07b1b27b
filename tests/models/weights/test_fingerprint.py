"""The fingerprint tells the weights of backbones apart, and nothing else."""

import pytest
import torch
from torch import nn

from miniature.backbones import build, plain, timm_model
from pcvpt.models.weights.fingerprint import fingerprint


def test_prompts_and_head_leave_it_as_it_was(mode: str) -> None:
    prompted = build(mode=mode)
    before = fingerprint(prompted)
    for parameter in prompted.parameters():
        if parameter.requires_grad:
            parameter.data += 1
    assert fingerprint(prompted) == before
    assert fingerprint(plain(prompted)) == before
    assert len(before) == 16
    assert int(before, 16) > 0


@pytest.mark.parametrize("name", ["cls_token", "blocks.1.attn.qkv.bias", "norm.weight"])
def test_the_last_bit_of_any_weight_changes_it(name: str) -> None:
    model = timm_model()
    before = fingerprint(model)
    values = model.get_parameter(name).data.flatten()
    values[-1] = torch.nextafter(values[-1], torch.tensor(9.0))
    assert fingerprint(model) != before


def test_a_persistent_buffer_counts() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    before = fingerprint(model)
    model[0].running_mean += 1
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    ("backbone", "table"),
    [("class_token", "pos_embed"), ("swin", "layers.1.blocks.0.attn.relative_position_bias_table")],
)
def test_tables_of_positions_do_not_change_it(backbone: str, table: str) -> None:
    model = timm_model(backbone)
    before = fingerprint(model)
    model.get_parameter(table).data += 1
    assert fingerprint(model) == before


def test_only_a_precision_that_rounds_the_values_changes_it() -> None:
    model = timm_model()
    assert fingerprint(model) != fingerprint(model.to(torch.bfloat16))
    assert fingerprint(model) == fingerprint(model.float()) == fingerprint(model.double())


@pytest.mark.gpu
def test_it_does_not_depend_on_the_device() -> None:
    model = timm_model()
    assert fingerprint(model) == fingerprint(model.cuda())
