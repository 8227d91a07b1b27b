"""Damaged and hostile files end in one UsageError that names them, or are of no consequence."""

import json
import math
import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from miniature.backbones import CLASSES, build, logits, timm_model
from pcvpt import UsageError, load_adapter, merge_prompts, save_adapter
from pcvpt.adapters.adapter import LONGEST_TEXT
from pcvpt.adapters.file import digest
from pcvpt.data import InputSpec, settle

SIZE: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 2}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@dataclass
class Sound:
    """A sound adapter, what its model predicts, and a place for a mutant."""

    content: bytes
    weights: Path
    logits: Tensor
    mutant: Path

    @property
    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Its description and its tensors."""
        (length,) = struct.unpack("<Q", self.content[:8])
        metadata = json.loads(self.content[8 : 8 + length])["__metadata__"]
        return json.loads(metadata["pcvpt"]), load(self.content)


@pytest.fixture(scope="module", params=["tokens", "merged"])
def sound(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Sound:
    folder = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    torch.save(timm_model(**SIZE).state_dict(), folder / "backbone.pth")
    model = build(pretrained=folder / "backbone.pth", **SIZE)
    model.prompts.apply_mask([torch.tensor([1, 0, 1, 1]) > 0, torch.tensor([0, 1, 0, 0]) > 0])
    if request.param == "merged":
        model.prompts.apply_merge(merge_prompts(model, [(IMAGES,)], 0.3))
    steps = settle("timm", InputSpec.of(model.pretrained_cfg, (32, 32)), "crop", False)
    names, provenance = list("abcde"), {"seed": 1, "data": {"n": [1]}}
    path = save_adapter(model, folder / "a.safetensors", names, steps, provenance)
    return Sound(
        path.read_bytes(), folder / "backbone.pth", logits(model, IMAGES), folder / "m.safetensors"
    )


def _outcome(sound: Sound, content: bytes, same: bool = True) -> str:
    """Load ``content``; return the error's message, or "" where it gives a model.

    Whoever writes a new digest can ask for another layout of the same tensors, such as one head of
    attention for two. Else the model is the ``same`` as that of the sound file.
    """
    sound.mutant.write_bytes(content)
    try:
        model = load_adapter(sound.mutant, sound.weights)
    except UsageError as error:
        said = str(error)
        assert said.startswith(f"{sound.mutant}: ")
        assert len(said) < 2000
        return said
    found = logits(model, IMAGES)
    assert torch.equal(found, sound.logits) or (not same and bool(found.isfinite().all()))
    assert model.adapter.class_names is None or len(model.adapter.class_names) == CLASSES
    return ""


def _file(text: str, tensors: dict[str, Tensor]) -> bytes:
    """Return an adapter whose digest fits, as an attacker would write it."""
    metadata = {"format": "pt", "pcvpt": text, "sha256": digest(text, tensors)}
    return save(tensors, metadata)


def _described(fields: Any, tensors: dict[str, Tensor]) -> bytes:
    return _file(json.dumps(fields), tensors)


def test_the_sound_file_loads(sound: Sound) -> None:
    assert _outcome(sound, sound.content) == ""
    assert _outcome(sound, _described(*sound.parts)) == ""


def test_a_file_of_format_1_has_plain_tokens(sound: Sound) -> None:
    fields, tensors = sound.parts
    older = {**fields, "format": 1}
    assert "format=1" in _outcome(sound, _described(older, tensors))
    form = older.pop("form")
    assert (_outcome(sound, _described(older, tensors)) == "") == (form == "token")


def test_files_with_flipped_bytes_are_refused(sound: Sound) -> None:
    (length,) = struct.unpack("<Q", sound.content[:8])
    # All of the header, as the writer orders its entries differently each time, some of the rest.
    places = [[place] for place in (*range(8 + length), *range(8 + length, len(sound.content), 37))]
    draw = random.Random(1)
    places += [draw.sample(range(len(sound.content)), draw.choice([1, 2, 8])) for _ in range(60)]
    for flipped in places:
        content = bytearray(sound.content)
        for place in flipped:
            content[place] ^= draw.randrange(1, 256)
        assert _outcome(sound, bytes(content)) != ""


def test_truncated_and_lengthened_files_and_noise_are_refused(sound: Sound) -> None:
    draw, whole = random.Random(1), len(sound.content)
    lengths = [0, 1, 7, 8, 9, whole - 1, *(draw.randrange(whole) for _ in range(20))]
    files = [sound.content[:length] for length in lengths]
    files += [sound.content + b"\0", sound.content * 2]
    files += [draw.randbytes(length) for length in (8, 100, 5000)]
    for content in files:
        assert _outcome(sound, content) != ""


HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 2.5, 10**9, 10**12, 10**400, -(2**63), 1e308, 5e-324),
    *("", "deep", "x" * 10_000, "../../etc/passwd", "http://localhost:1/", "hf-hub:a/b", "\0"),
    *([], [1], [10**9, 10**9], [[[[1]]]], [None], ["a"] * 40, [1.0, 2.0, 3.0], ["a", "b", 3]),
    *({}, {"a": 1}, {"checkpoint_path": "/etc/passwd"}),
]


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of ``value`` and of each value within it."""
    yield path
    inner = enumerate(value) if isinstance(value, list) else ()
    for key, part in value.items() if isinstance(value, dict) else inner:
        yield from _leaves(part, (*path, key))


def _changed(fields: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    fields = json.loads(json.dumps(fields))
    inner: Any = fields
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return fields


STRICT = ("format", "form", "backbone", "mode", "execution", "dtype", "fingerprint")
STRICT += ("pool_prompts",)
FREE = ("timm_kwargs", "preprocessing", "class_names", "provenance", "num_prompts", "version")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        *((field, len(HOSTILE)) for field in STRICT),
        *((field, 3) for field in FREE),
        *(pytest.param(field, len(HOSTILE), marks=pytest.mark.slow) for field in FREE),
    ],
)
def test_hostile_values_in_every_place_of_a_field_are_refused_or_harmless(
    sound: Sound, field: str, values: int
) -> None:
    fields, tensors = sound.parts
    assert {*fields} == {*STRICT, *FREE}
    draw = random.Random(4)
    for path in [(field, *path) for path in _leaves(fields[field])]:
        for value in draw.sample(HOSTILE, values):
            mutant = _described(_changed(fields, path, value), tensors)
            said = _outcome(sound, mutant, same=field != "timm_kwargs")
            if field in STRICT and json.dumps(value) != json.dumps(fields[field]):
                assert said != ""


def test_lacking_and_unknown_entries(sound: Sound) -> None:
    fields, tensors = sound.parts
    for name in fields:
        rest = {k: v for k, v in fields.items() if k != name}
        assert _outcome(sound, _described(rest, tensors)) != ""
    assert "more" in _outcome(sound, _described({**fields, "more": 1}, tensors))
    for within in "preprocessing", "timm_kwargs":
        changed = {**fields, within: {**fields[within], "more": 1}}
        assert "more" in _outcome(sound, _described(changed, tensors))


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "file"),
        *("pretrained_filter_fn", "pretrained_strict", "num_classes", "pretrained", "device"),
        *("backbone", "num_prompts", "mode", "scriptable", "kwargs", "self", "__class__"),
        "features_only",
    ],
)
def test_a_file_gives_timm_no_argument_but_of_the_layout(sound: Sound, name: str) -> None:
    fields, tensors = sound.parts
    for value in "/etc/passwd", {"file": "/etc/passwd"}, {"url": "http://localhost:1/"}, 1:
        changed = _changed(fields, ("timm_kwargs", name), value)
        assert name in _outcome(sound, _described(changed, tensors))


@pytest.mark.parametrize(
    "backbone", ["hf-hub:someone/model", "hf_hub:a/b", "local-dir:/tmp", "/tmp/x", "timm/vit"]
)
def test_a_file_does_not_say_where_to_go(
    sound: Sound, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, tensors = sound.parts
    monkeypatch.setattr("timm.create_model", None)  # nothing may be built
    said = _outcome(sound, _described({**fields, "backbone": backbone}, tensors))
    assert "not one of timm's own" in said
    assert "backbone=" in said


def test_a_backbone_may_be_named_by_the_caller(sound: Sound) -> None:
    fields, tensors = sound.parts
    sound.mutant.write_bytes(_described({**fields, "backbone": "hf-hub:a/b"}, tensors))
    model = load_adapter(sound.mutant, sound.weights, backbone="vit_tiny_patch16_224")
    assert torch.equal(logits(model, IMAGES), sound.logits)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"depth": 256, "embed_dim": 65536, "num_heads": 1}, marks=pytest.mark.slow),
        {"img_size": [65536, 65536], "patch_size": 1},
        {"embed_dim": 65536, "mlp_ratio": 60000.0},
        {"reg_tokens": 65536, "embed_dim": 65536},
        *({"depth": depth} for depth in (10**6, 257, -1, 2.0)),
        *({"img_size": size} for size in (65536, -32, 33)),
        *({"num_heads": heads} for heads in (0, 7)),
        *({"patch_size": 0}, {"global_pool": ""}, {"norm_layer": "os.system"}),
        {"block_fn": "print"},
    ],
)
def test_absurd_layouts_are_refused_without_being_built(
    sound: Sound, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, tensors = sound.parts
    changed = {**fields, "timm_kwargs": {**fields["timm_kwargs"], **arguments}}
    monkeypatch.setattr("pcvpt.adapters.load.create_model", None)  # the one that would build it
    assert _outcome(sound, _described(changed, tensors)) != ""


def _mutants(tensor: Tensor) -> Iterator[Tensor]:
    """Yield ``tensor`` in other shapes, sizes, types, and with values that no model has."""
    for shape in (-1,), (1, -1), (-1, 1), (1, 1, -1):
        if tensor.reshape(shape).shape != tensor.shape:
            yield tensor.reshape(shape).clone()
    yield from (tensor[:-1].clone(), tensor[:0].clone(), torch.cat([tensor, tensor]))
    if tensor.dtype == torch.bool:
        yield from (tensor.to(kind) for kind in (torch.uint8, torch.float32))
        yield tensor | True  # more than there are values of
    else:
        yield from (tensor.to(kind) for kind in (torch.int64, torch.bool))
        for value in math.nan, math.inf, -math.inf:
            tensor = tensor.clone()
            tensor.view(-1)[-1] = value
            yield tensor


WEIGHT = "prompts.log_weight"
NAMES = ("prompts.keep", "prompts.values", "head.weight", "head.bias", WEIGHT)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_are_not_those_of_the_model_are_refused_before_its_backbone_is_fetched(
    sound: Sound, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, tensors = sound.parts
    monkeypatch.setattr("pcvpt.adapters.load.create_model", None)  # the one that would fetch it
    tensors.setdefault(WEIGHT, torch.zeros(len(tensors["prompts.values"]), 1))
    rest = {other: tensor for other, tensor in tensors.items() if other != name}
    mutants = [{**rest, name: mutant} for mutant in _mutants(tensors[name])]
    for other in name + "_0", name.upper(), "", "blocks.0.attn.qkv.weight":
        mutants += [{**rest, other: tensors[name]}, {**tensors, other: tensors[name].clone()}]
    if name != WEIGHT:  # which prompts need not have
        mutants.append(rest)
    for mutant in mutants:
        assert _outcome(sound, _described(fields, mutant)) != ""


def test_masks_of_other_bytes_than_0_and_1_and_many_tensors_are_refused(sound: Sound) -> None:
    fields, tensors = sound.parts
    tensors["prompts.keep"].view(torch.uint8)[0, 0] = 255
    assert _outcome(sound, _described(fields, tensors)) != ""
    fields, tensors = sound.parts
    tensors |= {f"w{number}": torch.ones(1) for number in range(1000)}
    assert "tensors" in _outcome(sound, _described(fields, tensors))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "1", '"text"', "[" * 100_000, '{"a":' * 100_000, "NaN"),
        *("9" * 10_000, '{"format": 1' + "0" * 5000 + "}", '{"format": true}', '{"format": 2}'),
        *('{"format": 1, "a": "\\ud800"}', '{"format": 1e999}', "\x00", "[" * 900 + "]" * 900),
    ],
)
def test_texts_that_are_no_description(sound: Sound, text: str) -> None:
    assert _outcome(sound, _file(text, sound.parts[1])) != ""


def test_an_overlong_description(sound: Sound) -> None:
    fields, tensors = sound.parts
    fields["provenance"] = {"x": "y" * LONGEST_TEXT}
    assert "characters" in _outcome(sound, _described(fields, tensors))


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b"[" * 50_000,
        b'{"__metadata__":{"pcvpt":1,"sha256":2}}',
        b'{"__metadata__":{"pcvpt":"{}"}}',
        b'{"__metadata__":{"pcvpt":"{}","sha256":""}}',
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,4]}}',
        b"\xff\xfe",
    ],
)
def test_hostile_headers(sound: Sound, header: bytes) -> None:
    for length in (len(header), 2**63, 2**64 - 1, 99_999_999, 0):
        assert _outcome(sound, struct.pack("<Q", length) + header + b"\0" * 8) != ""


def test_a_newer_format_is_named(sound: Sound) -> None:
    _, tensors = sound.parts
    said = _outcome(sound, _described({"format": 3, "version": "9.1", "new": {}}, tensors))
    assert re.search(r"format 3.*9\.1.*update pcvpt", said)
