"""Miniature weights files in the structure of their authors', made from a timm model."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def jax_arrays(model: Any) -> dict[str, Any]:
    """Name the tensors of a ViT as Google's ViT-B_16.npz does, with the layout of JAX."""
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    heads, width = model.blocks[0].attn.num_heads, model.embed_dim
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
        "pre_logits/kernel": np.ones((width, width), np.float32),
        "pre_logits/bias": np.ones(width, np.float32),
    }
    for i in range(len(model.blocks)):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}/{name}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/{name}/bias"] = state[f"{ours}.{norm}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for n, name in enumerate(("query", "key", "value")):
            rows = slice(n * width, (n + 1) * width)
            kernel = state[f"{ours}.attn.qkv.weight"][rows].T
            arrays[f"{attention}/{name}/kernel"] = kernel.reshape(width, heads, -1)
            arrays[f"{attention}/{name}/bias"] = state[f"{ours}.attn.qkv.bias"][rows].reshape(
                heads, -1
            )
        out = state[f"{ours}.attn.proj.weight"].T
        arrays[f"{attention}/out/kernel"] = out.reshape(heads, -1, width)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for n in (0, 1):
            dense = f"{theirs}/MlpBlock_3/Dense_{n}"
            arrays[f"{dense}/kernel"] = state[f"{ours}.mlp.fc{n + 1}.weight"].T
            arrays[f"{dense}/bias"] = state[f"{ours}.mlp.fc{n + 1}.bias"]
    return arrays


def mae(model: nn.Module) -> dict[str, Any]:
    """Return what `mae_pretrain_vit_base_full.pth` holds: encoder, mask token and decoder."""
    state = headless(model.state_dict())
    decoder = {
        "mask_token": torch.randn(1, 1, 8),
        "decoder_pos_embed": torch.randn(1, 5, 8),
        "decoder_embed.weight": torch.randn(8, 48),
        "decoder_blocks.0.attn.qkv.weight": torch.randn(24, 8),
        "decoder_norm.weight": torch.randn(8),
        "decoder_pred.bias": torch.randn(9),
    }
    return {"model": {**state, **decoder}}


def moco(model: nn.Module) -> dict[str, Any]:
    """Return what `vit-b-300ep.pth.tar` holds: two encoders, each with a head, and a predictor."""
    state = headless(model.state_dict())
    state["head.0.weight"] = torch.randn(16, 48)
    twin = {k: torch.randn_like(v) for k, v in state.items()}
    tensors = {
        **{f"module.base_encoder.{k}": v for k, v in state.items()},
        **{f"module.momentum_encoder.{k}": v for k, v in twin.items()},
        "module.predictor.0.weight": torch.randn(16, 16),
    }
    return {"epoch": 300, "arch": "vit_base", "state_dict": tensors, "optimizer": {"state": {}}}


def moco_linear(model: nn.Module) -> dict[str, Any]:
    """Return what `linear-vit-b-300ep.pth.tar` holds: an encoder with a linear classifier."""
    tensors = {f"module.{k}": v for k, v in model.state_dict().items()}
    return {"epoch": 90, "state_dict": tensors, "best_acc1": torch.tensor(76.7)}


def dino(model: nn.Module) -> dict[str, Any]:
    """Return a full checkpoint of DINO: teacher and student, with heads."""
    state = headless(model.state_dict())
    teacher = {f"backbone.{k}": v for k, v in state.items()}
    student = {f"module.backbone.{k}": torch.randn_like(v) for k, v in state.items()}
    head = torch.randn(4, 48)
    return {
        "student": {**student, "module.head.mlp.0.weight": head},
        "teacher": {**teacher, "head.mlp.0.weight": head},
        "epoch": 100,
    }


def swin(model: nn.Module) -> dict[str, Any]:
    """Return what Microsoft's Swin files hold: merging ends a stage, and buffers are saved."""
    state: State = {}
    for name, tensor in model.state_dict().items():
        name = re.sub(
            r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name
        )
        state[name.replace("head.fc.", "head.")] = tensor
        if name.endswith("relative_position_bias_table"):
            buffer = name.replace("bias_table", "index")
            state[buffer] = torch.zeros(49, 49, dtype=torch.long)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    return {"model": state}


def dinov3(model: nn.Module) -> State:
    """Return DINOv3's names: registers are storage tokens, layer scales are modules."""
    state: State = {}
    for name, tensor in headless(model.state_dict()).items():
        name = name.replace("reg_token", "storage_tokens")
        state[re.sub(r"gamma_([12])", r"ls\1.gamma", name)] = tensor
    width = state["norm.weight"].shape[0]
    for i in range(len(model.get_submodule("blocks"))):
        none = torch.zeros(width)  # of the keys always, of all in the small models
        q, v = (state.pop(f"blocks.{i}.attn.{n}_bias", none) for n in "qv")
        state[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, none, v])
        state[f"blocks.{i}.attn.qkv.bias_mask"] = torch.zeros(3 * width)
    return {**state, "mask_token": torch.zeros(1, width), "rope_embed.periods": torch.ones(4)}


def headless(state: State) -> State:
    """Leave out the classifier."""
    return {k: v for k, v in state.items() if not k.startswith("head.")}


def write(content: Any, path: Path) -> Path:
    """Save ``content`` with torch."""
    torch.save(content, path)
    return path
