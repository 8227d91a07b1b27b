"""Every argument of timm's classes acts in a prompted model, or is refused."""

import inspect
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import pytest
import torch
from timm.layers import PatchEmbed, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

from miniature.backbones import BACKBONES, PROMPTS, arguments, images, shake
from pcvpt.errors import UsageError
from pcvpt.models import create_model
from pcvpt.models.factory import timm_arguments
from pcvpt.models.registry import FAMILIES


class Doubled(PatchEmbed):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


# For each of timm's classes, miniature backbones: one of them must show what an argument does.
ROWS = {
    "VisionTransformer": ("class_token", "average_pooling", "map_pooling", "any_size"),
    "Eva": ("eva02", "dinov3", "eva_map_pooling", "eva_mrope", "grouped_query"),
    "Beit": ("beit", "beit_shared_bias", "beit_average_pooling"),
    "SwinTransformer": ("swin", "swin_one_window"),
}
MORE_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "any_size": ("class_token", {"dynamic_img_size": True}),
    "beit_average_pooling": ("beit", {"global_pool": "avg"}),
    "map_pooling": ("class_token", {"global_pool": "map"}),
    "eva_map_pooling": ("dinov3", {"global_pool": "map"}),
    "eva_mrope": ("dinov3", {"rope_type": "mrope", "rope_rotate_half": True}),
}
BOOLEAN, REFUSED = (True, False), "refused"
# Each argument of any of the classes: values of which one must act, or REFUSED and a value.
ARGUMENTS: dict[str, Any] = {
    "img_size": (48, 56),
    "patch_size": (8, 7),
    "in_chans": (REFUSED, 1),
    "num_classes": (REFUSED, 3),
    "global_pool": ("avg", "token", "max"),
    "embed_dim": (24,),
    "depth": (2,),
    "depths": ((1, 1),),
    "num_heads": (1, (1, 1)),
    "head_dim": (8,),
    "num_kv_heads": (1,),
    "mlp_ratio": (2.0,),
    "qkv_bias": BOOLEAN,
    "qkv_fused": BOOLEAN,
    "qk_norm": BOOLEAN,
    "scale_attn_norm": BOOLEAN,
    "scale_attn_inner": BOOLEAN,
    "scale_mlp_norm": BOOLEAN,
    "scale_mlp": BOOLEAN,
    "swiglu_mlp": BOOLEAN,
    "swiglu_align_to": (20,),
    "proj_bias": BOOLEAN,
    "init_values": (0.2,),
    "attn_only_layer_scale": BOOLEAN,
    "class_token": BOOLEAN,
    "pos_embed": ("none",),
    "use_abs_pos_emb": BOOLEAN,
    "use_rel_pos_bias": BOOLEAN,
    "use_shared_rel_pos_bias": BOOLEAN,
    "no_embed_class": BOOLEAN,
    "reg_tokens": (2,),
    "num_reg_tokens": (2,),
    "pre_norm": BOOLEAN,
    "final_norm": BOOLEAN,
    "fc_norm": BOOLEAN,
    "use_post_norm": BOOLEAN,
    "use_pre_transformer_norm": BOOLEAN,
    "use_post_transformer_norm": BOOLEAN,
    "use_fc_norm": BOOLEAN,
    "pool_include_prefix": BOOLEAN,
    "attn_pool_num_heads": (1,),
    "attn_pool_mlp_ratio": (2.0,),
    "attn_type": ("rope",),
    "use_rot_pos_emb": BOOLEAN,
    "rope_type": ("dinov3",),
    "rope_grid_offset": (0.5,),
    "rope_grid_indexing": ("xy",),
    "rope_temperature": (10.0,),
    "rope_rotate_half": BOOLEAN,
    "rope_mrope_section": ((2, 2, 4),),
    "ref_feat_shape": ((4, 4),),
    "rope_shift_coords": (REFUSED, 0.1),
    "rope_jitter_coords": (REFUSED, 1.1),
    "rope_rescale_coords": (REFUSED, 1.1),
    "window_size": (8,),
    "always_partition": BOOLEAN,
    "strict_img_size": BOOLEAN,
    "dynamic_img_size": BOOLEAN,
    "dynamic_img_pad": BOOLEAN,
    "drop_rate": (0.5,),
    "pos_drop_rate": (REFUSED, 0.1),
    "patch_drop_rate": (REFUSED, 0.1),
    "proj_drop_rate": (REFUSED, 0.1),
    "attn_drop_rate": (REFUSED, 0.1),
    "drop_path_rate": (REFUSED, 0.1),
    "weight_init": ("jax", "moco"),
    "fix_init": BOOLEAN,
    "head_init_scale": (REFUSED, 1.0),
    "embed_layer": (Doubled,),
    "embed_norm_layer": (nn.LayerNorm,),
    "norm_layer": (partial(nn.LayerNorm, eps=0.1),),
    "act_layer": (nn.ReLU,),
    "mlp_layer": (SwiGLU,),
    "block_fn": (REFUSED, ParallelScalingBlock),
    "attn_layer": (REFUSED, "diff"),
    "device": (REFUSED, "meta"),
    "dtype": (REFUSED, torch.float16),
}
GIVEN = [
    (kind.__name__, name)
    for kind in FAMILIES
    for name in inspect.signature(kind).parameters
    # The Swin of older versions of timm takes any name, and asserts the one pooling that it has.
    if "kwargs" not in inspect.signature(kind).parameters or name not in ("kwargs", "global_pool")
]


def _make(row: str, **options: Any) -> Any:
    row, own = MORE_ROWS.get(row, (row, {}))
    name, options = arguments(row, **{**own, **options})
    torch.manual_seed(0)
    return create_model(name, 5, PROMPTS, pretrained=False, **options)


@torch.no_grad()
def _outcome(row: str, **options: Any) -> list[Tensor]:
    """Return the weights at the start, and logits in training, for two sizes of images."""
    model = _make(row, **options).train()
    found = list(model.state_dict().values())
    shake(model)
    for batch in (images(model), images(model)[..., :-3], images(model)[..., :16]):
        torch.manual_seed(0)
        try:
            found.append(model(batch))
        except (AssertionError, RuntimeError):  # it takes no other size
            found.append(torch.empty(0))
    return found


_usual = cache(_outcome)


def _effects(family: str, name: str) -> Iterator[bool]:
    for row in ROWS[family]:
        if row not in BACKBONES and row not in MORE_ROWS:
            continue  # of a newer timm
        for value in ARGUMENTS[name]:
            try:
                found = _outcome(row, **{name: value})
            except UsageError:  # it does not fit this backbone
                continue
            usual = _usual(row)
            yield len(found) != len(usual) or not all(
                a.shape == b.shape and torch.allclose(a, b, atol=1e-6, equal_nan=True)
                for a, b in zip(found, usual, strict=True)
            )


@pytest.mark.parametrize(("family", "name"), GIVEN)
def test_an_argument_of_timm_acts_or_is_refused(family: str, name: str) -> None:
    assert name in ARGUMENTS, "a new argument of timm: does it act? add it to the table"
    if ARGUMENTS[name][0] != REFUSED:
        assert any(_effects(family, name))
    elif name in inspect.signature(create_model).parameters:
        with pytest.raises(UsageError, match=name):
            timm_arguments(None, {name: 3})
    else:
        with pytest.raises(UsageError, match=f"{name}=|not supported"):
            _make(ROWS[family][0], **{name: ARGUMENTS[name][1]})


@pytest.mark.parametrize("family", ROWS)
def test_an_argument_that_timm_does_not_have_is_refused(family: str) -> None:
    with pytest.raises(UsageError, match="windw_size"):
        _make(ROWS[family][0], windw_size=4)
