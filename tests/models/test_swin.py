"""Swin with prompts: what stays timm's, executions, gates, scores and the choice of prompts."""

import copy
import math
from typing import Any, get_args

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcvpt import UsageError, create_model, score_prompts, select_prompts
from pcvpt.condensation import Method
from pcvpt.models.swin import PromptedSwinBlock, PromptedSwinTransformer
from pcvpt.models.window_attention import PromptedWindowAttention

NAME, CLASSES, PROMPTS = "swin_tiny_patch4_window7_224", 5, 3
SMALL: dict[str, Any] = {
    "img_size": 32,
    "embed_dim": 12,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
}
KEEP = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
# Eight by eight patches in four windows, then four by four in one, unless an option says otherwise.
VARIANTS: dict[str, dict[str, Any]] = {
    "shifted": {},
    "padded": {"img_size": (28, 44)},
    "windows_as_large_as_the_image": {"window_size": 8},
    "always_partitioned": {"always_partition": True, "img_size": 64},
    "any_input_size": {"strict_img_size": False},
    "windows_that_are_not_square": {"window_size": (2, 4)},
    "no_qkv_bias": {"qkv_bias": False},
    "heads_of_another_width": {"head_dim": 8},
    "prompts_pooled": {"pool_prompts": True},
    "prompts_pooled_after_padding": {"pool_prompts": True, "img_size": (28, 44)},
}
POOLS = pytest.mark.parametrize("pool", [False, True], ids=["patches_pooled", "prompts_pooled"])


@pytest.fixture
def swin(shake: Any) -> Any:
    def build(**options: Any) -> Any:
        arguments = {"num_prompts": PROMPTS, "pretrained": False, **SMALL, **options}
        model = create_model(NAME, CLASSES, **arguments)
        shake(model)
        return model.eval()

    return build


def _images(model: Any, batch: int = 2) -> Tensor:
    size = (24, 40) if model.patch_embed.strict_img_size is False else model.patch_embed.img_size
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(2))


def _timm(model: Any, **options: Any) -> nn.Module:
    options = {k: v for k, v in {**SMALL, **options}.items() if k != "pool_prompts"}
    plain = timm.create_model(NAME, num_classes=CLASSES, **options)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("prompts.")}
    plain.load_state_dict(weights)  # strict: every name, no other
    return plain.eval()


def _mask(model: Any) -> Tensor:
    keep = KEEP if model.mode == "deep" else KEEP[:1]
    model.prompts.apply_mask(list(keep))
    return keep


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def _assert_close(found: Tensor, expected: Tensor, what: str = "") -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), what


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "pooled" not in name])
def test_without_prompts_the_model_is_timms_bit_for_bit(
    swin: Any, execution: str, variant: str
) -> None:
    options = VARIANTS[variant]
    model = swin(mode="linear", num_prompts=0, execution=execution, **options)
    images = _images(model)
    assert torch.equal(_logits(model, images), _logits(_timm(model, **options), images))


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_every_prompt_masked_the_model_is_timms(
    swin: Any, mode: str, execution: str, variant: str
) -> None:
    model = swin(mode=mode, execution=execution, **VARIANTS[variant])
    images, expected = _images(model), _logits(_timm(model, **VARIANTS[variant]), _images(model))
    assert (_logits(model, images) - expected).abs().max() > 1e-3 * expected.abs().max()
    model.prompts.apply_mask(list(torch.zeros_like(model.prompts.keep)))
    _assert_close(_logits(model, images), expected)


def test_parameters_keep_timms_names(swin: Any, mode: str) -> None:
    model = swin(mode=mode)
    values = {"prompts.values_0", "prompts.values_1"} if mode == "deep" else {"prompts.values"}
    plain = _timm(model)
    assert {n for n, _ in model.named_parameters()} == {
        n for n, _ in plain.named_parameters()
    } | values
    assert set(model.state_dict()) == set(plain.state_dict()) | values | {
        "prompts.keep",
        "prompts.scores",
    }


@pytest.mark.parametrize("mode", ["deep", "shallow", "linear"])
def test_only_prompts_and_head_train(swin: Any, mode: str) -> None:
    model = swin(mode=mode, num_prompts=0 if mode == "linear" else PROMPTS)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    prompts = {"deep": {"prompts.values_0", "prompts.values_1"}, "shallow": {"prompts.values"}}
    assert trained == {"head.fc.weight", "head.fc.bias"} | prompts.get(mode, set())
    F.cross_entropy(model.train()(_images(model)), torch.tensor([0, 3])).backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained


def test_the_backbone_stays_in_evaluation_mode(swin: Any, mode: str) -> None:
    drops = dict.fromkeys(("proj_drop_rate", "attn_drop_rate", "drop_path_rate"), 0.5)
    model = swin(mode=mode, **drops)
    expected = _logits(model, _images(model))
    assert torch.equal(_logits(nn.Sequential(model).train()[0], _images(model)), expected)
    training = {n.split(".")[0] for n, m in model.named_modules() if m.training and n}
    assert training == {"prompts", "head"}


def _results(model: Any, execution: str, gated: bool) -> dict[str, Tensor]:
    model.execution = execution
    model.zero_grad()
    images, shape = _images(model), model.prompts.keep.shape
    gate = torch.randn(len(images), *shape, generator=torch.Generator().manual_seed(3))
    gate.requires_grad_()
    torch.manual_seed(4)
    if gated:
        with model.prompts.gated(gate):
            logits = model(images)
    else:
        logits = model(images)
    F.cross_entropy(logits, torch.arange(len(images))).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"logits": logits.detach(), **gradients, **({"gate": gate.grad} if gated else {})}


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefix_equals_tokens(swin: Any, mode: str, variant: str) -> None:
    """Every image has gates of its own here."""
    model = swin(mode=mode, prompt_dropout=0.3, **VARIANTS[variant]).train()
    for masked in (False, True):
        if masked:
            _mask(model)
        for gated in (False, True):
            prefix, tokens = (_results(model, e, gated) for e in ("prefix", "tokens"))
            assert all(value.abs().max() > 1e-4 for value in tokens.values())
            for name, expected in tokens.items():
                _assert_close(prefix[name], expected, name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_do_not_depend_on_the_batch(
    swin: Any, mode: str, execution: str, variant: str
) -> None:
    model = swin(mode=mode, execution=execution, **VARIANTS[variant])
    images = _images(model, 3)
    together = _logits(model, images)
    alone = torch.cat([_logits(model, image[None]) for image in images])
    _assert_close(together, alone)
    assert (together[0] - together[1]).abs().max() > 1e-2 * together.abs().max()


@POOLS
def test_a_mask_equals_a_gate_of_minus_infinity(
    swin: Any, mode: str, execution: str, pool: bool
) -> None:
    """When prompts are pooled, a gate takes them out of the mean, too."""
    model = swin(mode=mode, execution=execution, pool_prompts=pool)
    keep = KEEP if mode == "deep" else KEEP[:1]
    gate = torch.zeros(1, *keep.shape).masked_fill(~keep, float("-inf"))
    with model.prompts.gated(gate):
        expected = _logits(model, _images(model))
    _mask(model)
    _assert_close(_logits(model, _images(model)), expected)
    with model.prompts.gated(torch.zeros(1, *keep.shape)):
        _assert_close(_logits(model, _images(model)), expected)


def test_prompts_are_computed_once_for_all_windows(
    swin: Any, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = swin(mode=mode)
    original, seen = PromptedWindowAttention.project_parts, []

    def record(attention: Any, x: Tensor, first: int, last: int) -> Any:
        shape = x.shape if x.ndim == 4 else x[:, None].shape  # prompts have no windows
        seen.append((*shape[:3], "qkv"[first:last]))  # images, windows, tokens
        return original(attention, x, first, last)

    monkeypatch.setattr(PromptedWindowAttention, "project_parts", record)
    _logits(model, _images(model))
    patches = [(2, 4, 16, "qkv"), (2, 4, 16, "qkv"), (2, 1, 16, "qkv"), (2, 1, 16, "qkv")]
    prompts = [[(1, 1, PROMPTS, "kv")]] * 4
    if mode == "shallow":  # what flows on depends on the image, and is not read after the last
        flowing = [(images, 1, PROMPTS) for images in (1, 2, 2)]
        prompts = [[(*shape, "q"), (*shape, "kv")] for shape in flowing]
        prompts.append([(2, 1, PROMPTS, "kv")])
    assert seen == [c for own, rest in zip(patches, prompts, strict=True) for c in (own, *rest)]
    model.execution = "tokens"
    seen.clear()
    _logits(model, _images(model))
    assert seen == [(b, w, n + PROMPTS, parts) for b, w, n, parts in patches]


def test_dropout_is_shared_by_a_batch_in_deep_and_each_images_own_in_shallow(
    swin: Any, mode: str, execution: str
) -> None:
    model = swin(mode=mode, execution=execution, prompt_dropout=0.5).train()
    twice = _images(model, 1).expand(2, -1, -1, -1)
    logits = _logits(model, twice)
    assert (torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-5)) == (mode == "deep")
    assert not torch.equal(_logits(model, twice), logits)


def test_checkpointed_gradients_are_the_same(swin: Any, mode: str) -> None:
    model = swin(mode=mode, prompt_dropout=0.3, pool_prompts=True).train()
    plain = _results(model, "prefix", gated=False)
    model.set_grad_checkpointing(True)
    for name, found in _results(model, "prefix", gated=False).items():
        _assert_close(found, plain[name], name)


def test_a_stage_without_prompts_still_has_a_gradient(swin: Any, execution: str) -> None:
    """Distributed training waits for the gradient of every trained parameter."""
    model = swin(execution=execution)
    model.prompts.apply_mask(list(torch.tensor([[False] * 3] * 2 + [[True] * 3] * 2)))
    model(_images(model)).sum().backward()
    first, second = (values.grad for _, values in model.prompts.runs())
    assert torch.equal(first, torch.zeros_like(first))
    assert second.abs().max() > 0


def test_a_copy_is_on_its_own(swin: Any, mode: str, execution: str) -> None:
    model = swin(mode=mode, execution=execution)
    before = _logits(model, _images(model))
    other = copy.deepcopy(model)
    for values in other.prompts.parameters():
        values.data.zero_()
    other.blocks[0].norm1.bias.data += 1
    assert not torch.equal(_logits(other, _images(model)), before)
    assert torch.equal(_logits(model, _images(model)), before)


def test_a_prompt_of_swin_b_has_12032_parameters() -> None:
    with torch.device("meta"):
        bank = create_model("swin_base_patch4_window7_224", 2, 2, pretrained=False).prompts
    assert [tuple(values.shape) for values in bank.parameters()] == [
        (2, 2, 128),
        (2, 2, 256),
        (18, 2, 512),
        (2, 2, 1024),
    ]
    assert sum(values.numel() for values in bank.parameters()) == 2 * 12_032
    assert bank.stages == [0] * 2 + [1] * 2 + [2] * 18 + [3] * 2


def test_prompts_of_all_stages_start_in_the_bound_of_the_stem() -> None:
    name, depths = "swin_base_patch4_window7_224", (1, 1)
    model = create_model(name, 2, 100, pretrained=False, depths=depths, num_heads=(4, 8))
    bound = math.sqrt(6 / (3 * 4 * 4 + 128))
    assert bound == pytest.approx(0.1846, abs=1e-4)
    assert [values.shape[2] for values in model.prompts.parameters()] == [128, 256]
    for values in model.prompts.parameters():
        assert 0.99 * bound < values.abs().max() <= bound


def _losses(model: Any, data: Any, gate: Tensor) -> Tensor:
    with torch.no_grad(), model.prompts.gated(gate.log()[None]):
        return F.cross_entropy(model(data[0]), data[1], reduction="none")


@POOLS
def test_gate_scores_are_finite_differences_of_the_loss(
    swin: Any, mode: str, execution: str, pool: bool
) -> None:
    model = swin(mode=mode, execution=execution, pool_prompts=pool).double()
    data = (_images(model, 3).double(), torch.tensor([0, 3, 1]))
    shape = model.prompts.keep.shape
    expected = torch.zeros(shape, dtype=torch.float64)
    for index in torch.ones(shape).nonzero().tolist():
        up, down = torch.ones(2, *shape, dtype=torch.float64)
        up[tuple(index)] += 1e-4
        down[tuple(index)] -= 1e-4
        change = _losses(model, data, up) - _losses(model, data, down)
        expected[tuple(index)] = change.mean().abs() / 2e-4
    scores = torch.stack(score_prompts(model, [data], "gate"))
    assert (scores - expected).abs().max() <= 1e-4 * expected.max()
    assert expected.min() > 0


def test_a_model_in_half_precision_is_scored(swin: Any, mode: str, execution: str) -> None:
    model = swin(mode=mode, execution=execution, pool_prompts=True)
    data = (_images(model), torch.tensor([0, 3]))
    expected = torch.stack(score_prompts(model, [data]))
    scores = torch.stack(score_prompts(model.to(torch.bfloat16), [data]))
    assert (scores - expected).abs().max() <= 0.3 * expected.max()


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_scores_prompts_of_several_widths(swin: Any, mode: str, method: Any) -> None:
    model = swin(mode=mode)
    keep = _mask(model)
    data = (_images(model, 3), torch.tensor([0, 3, 1]))
    scores = torch.stack(score_prompts(model, [data], method))
    assert torch.equal(scores.isfinite(), keep)
    assert scores[keep].abs().max() > 0


def test_attention_is_the_mean_weight_that_a_prompt_receives(
    swin: Any, mode: str, execution: str
) -> None:
    model = swin(mode=mode, execution=execution)
    received = []

    def record(attention: Any, args: Any, kwargs: Any, output: Any) -> None:
        joined = attention.project(*args, **kwargs).joined()
        scores = joined.q @ joined.k.mT / math.sqrt(joined.q.shape[-1])
        weights = (scores + joined.bias).softmax(-1)
        patches = args[0].shape[2]
        mixed = (weights @ joined.v).transpose(2, 3).flatten(3)[:, :, :patches]
        _assert_close(attention.proj(mixed), output[0])
        received.append(weights[..., patches:].double().mean((0, 1, 2, 3)))

    hooks = [b.attn.register_forward_hook(record, with_kwargs=True) for b in model.blocks]
    _logits(model, _images(model))
    for hook in hooks:
        hook.remove()
    expected = torch.stack(received)
    expected = expected if mode == "deep" else expected.mean(0, keepdim=True)
    data = (_images(model), torch.tensor([0, 3]))
    scores = torch.stack(score_prompts(model, [data], "attention"))
    assert (scores - expected).abs().max() <= 1e-6


def test_magnitude_and_token_scores_do_not_mix_widths(swin: Any) -> None:
    model = swin().double()
    data = (_images(model).double(), torch.tensor([0, 3]))
    values = [model.prompts.layer_values(layer) for layer in range(4)]
    assert [v.shape[1] for v in values] == [12, 12, 24, 24]
    runs = list(model.prompts.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(model(data[0]), data[1]), runs)
    rows = [row for run in gradients for row in run]
    magnitude = score_prompts(model, [], "magnitude")
    norm = score_prompts(model, [data], "gradient_norm")
    for layer, value in enumerate(values):
        torch.testing.assert_close(magnitude[layer], value.detach().norm(dim=1))
        expected = rows[layer].norm(dim=1) * value.detach().norm(dim=1)
        torch.testing.assert_close(norm[layer], expected)


def test_the_scope_stage_ranks_within_each_stage_of_swin(swin: Any) -> None:
    scores = [torch.tensor([9.0, 8.0, 7.0]), torch.tensor([6.0, 5.0, 4.0])]
    scores += [torch.tensor([3.0, 0.1, 0.2]), torch.tensor([1.0, 2.0, 0.3])]
    keep = select_prompts(scores, 0.5, "stage", stages=swin().prompts.stages)
    assert torch.stack(keep).tolist() == [
        [True, True, True],
        [False, False, False],
        [True, False, False],
        [True, True, False],
    ]


def test_a_linear_probe_leaves_timms_blocks_as_they_are(swin: Any) -> None:
    model = swin(mode="linear", num_prompts=0)
    assert isinstance(model, PromptedSwinTransformer)
    assert not any(isinstance(module, PromptedSwinBlock) for module in model.modules())


def test_features_of_the_patches_are_the_same_whatever_is_pooled(swin: Any, mode: str) -> None:
    model, images = swin(mode=mode), _images(swin())
    features = model.forward_features(images)
    assert features.shape == (2, 4, 4, 24)
    _assert_close(model.forward_head(features), model(images))
    model.pool_prompts = True
    _assert_close(model.forward_features(images), features)
    assert not torch.allclose(model(images), model.forward_head(features), atol=1e-3)
    model.pool_prompts = False
    _assert_close(model(images), model.forward_head(features))


def test_pooling_of_prompts_is_refused_where_there_is_none(swin: Any) -> None:
    with pytest.raises(UsageError, match="pool_prompts=True with mode='linear'"):
        swin(mode="linear", num_prompts=0, pool_prompts=True)
    model = swin(pool_prompts=True)
    with pytest.raises(UsageError, match="global_pool='max'; it needs prompts"):
        model.reset_classifier(CLASSES, "max")
    with pytest.raises(UsageError, match="'vit_demo_patch8_32' is no Swin"):
        create_model("vit_demo_patch8_32", 2, 2, pretrained=False, pool_prompts=True)


def test_swin_v2_is_refused_by_name() -> None:
    small = {"embed_dim": 12, "depths": (1,), "num_heads": (2,), "img_size": 64}
    with pytest.raises(UsageError, match=r"SwinTransformerV2 is not supported.*Swin, S3"):
        create_model("swinv2_tiny_window8_256", 2, 2, pretrained=False, **small)  # type: ignore[arg-type]
