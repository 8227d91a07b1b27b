"""The published form of the prompts is our function, and the formulas say what both execute."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcvpt import UsageError, create_model
from pcvpt.analysis.cost import condensed_cost

CLASSES, PROMPTS = 5, 6
SIZES: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 3},
    "swin_tiny_patch4_window7_224": {  # windows 2 x 2, of which every second block's are shifted
        **{"img_size": 32, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4)},
        "window_size": 4,
    },
}
VIT, SWIN = SIZES
FAMILIES = pytest.mark.parametrize("name", [VIT, SWIN], ids=["vit", "swin"])


def _batch(count: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(count) % CLASSES


def _ours(name: str, **options: Any) -> Any:
    return create_model(name, CLASSES, PROMPTS, pretrained=False, **SIZES[name], **options)


def _release(benchmarks: Any, name: str, prompts: int = PROMPTS, **options: Any) -> Any:
    return benchmarks.release.release_form(name, CLASSES, prompts, **options, **SIZES[name])


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@FAMILIES
def test_the_release_form_is_our_function(benchmarks: Any, name: str, fused: bool) -> None:
    pooled = {"pool_prompts": True} if name == SWIN else {}
    ours = _ours(name, execution="tokens", **pooled)
    for parameter in ours.parameters():  # so that attention is far from uniform
        parameter.data += 0.1 * torch.randn_like(parameter)
    form = _release(benchmarks, name, fused=fused)
    weights = {k: v for k, v in ours.state_dict().items() if not k.startswith("prompts.")}
    form.backbone.load_state_dict(weights)
    for layer, prompts in enumerate(form.prompts):
        prompts.data.copy_(ours.prompts.layer_values(layer))
    images, labels = _batch(3, ours.patch_embed.img_size)
    logits = [model.double().train()(images.double()) for model in (ours, form)]
    torch.testing.assert_close(*logits, rtol=1e-10, atol=1e-10)
    for output in logits:
        F.cross_entropy(output, labels).backward()
    of_ours = [row for _, run in ours.prompts.runs() for row in run.grad]
    for got, prompts in zip(of_ours, form.prompts, strict=True):
        assert prompts.grad.abs().max() > 1e-4
        torch.testing.assert_close(got, prompts.grad, rtol=1e-9, atol=1e-10)
    trained = {name for name, value in form.named_parameters() if value.requires_grad}
    head = "backbone.head.fc" if name == SWIN else "backbone.head"
    named = {f"prompts.{layer}" for layer in range(len(form.prompts))}
    assert trained == named | {f"{head}.weight", f"{head}.bias"}


@FAMILIES
def test_the_release_form_without_prompts_is_the_bare_backbone(benchmarks: Any, name: str) -> None:
    form = _release(benchmarks, name, prompts=0).train()
    images, labels = _batch(2, form.backbone.patch_embed.img_size)
    logits = form(images)
    torch.testing.assert_close(logits, form.backbone(images), rtol=1e-5, atol=1e-5)
    F.cross_entropy(logits, labels).backward()
    assert len(list(form.prompts)) == 0


@FAMILIES
def test_prompt_dropout_of_the_release_form(benchmarks: Any, name: str) -> None:
    form = _release(benchmarks, name, dropout=0.5)
    drawn = form.train().drawn(0, 2)
    assert 0.2 < float((drawn == 0).float().mean()) < 0.8
    assert bool((drawn[0] == drawn[1]).all()) is (name == SWIN)  # one mask for the whole batch
    assert bool((form.eval().drawn(0, 2) != 0).all())


def test_a_family_that_the_release_does_not_have_is_refused(benchmarks: Any) -> None:
    with pytest.raises(UsageError, match="vit_base_patch16_gap_224"):
        benchmarks.release.release_form("vit_base_patch16_gap_224", CLASSES, 2)


def _shape(benchmarks: Any, name: str) -> Any:
    formulas = benchmarks.formulas
    if name == VIT:
        return formulas.ViT(blocks=3, n=17, d=192, h=3, patch=768, classes=CLASSES)
    stages = formulas.Stage(2, 64, 12, 2, 16), formulas.Stage(2, 16, 24, 4, 16)
    return formulas.Swin(stages, patch=48, classes=CLASSES)


def _check(benchmarks: Any, cost: Any, model: Any, held: float = 0.01, shared: bool = True) -> None:
    """Compare a formula with what a model executes, for one image and once for a batch."""
    size = getattr(model, "backbone", model).patch_embed.img_size
    count = benchmarks.arithmetic.multiply_accumulates
    model.train()

    def step(images: int) -> None:
        batch, labels = _batch(images, size)
        F.cross_entropy(model(batch), labels).backward()

    with torch.no_grad():
        forwards = [count(lambda n=n: model(_batch(n, size)[0])) for n in (1, 2)]
    steps = [count(lambda n=n: step(n)) for n in (1, 2)]
    forward, shared_forward = forwards[1] - forwards[0], 2 * forwards[0] - forwards[1]
    backward, shared_backward = steps[1] - steps[0] - forward, 2 * steps[0] - steps[1]
    assert (cost.forward, cost.backward) == (forward, backward)
    if shared:
        both = shared_forward, shared_backward - shared_forward
        assert (cost.shared_forward, cost.shared_backward) == both
    held_for_backward = benchmarks.activation_memory.held_for_backward
    two, three = (held_for_backward(model, *_batch(n, size)) for n in (2, 3))
    assert cost.held == pytest.approx(three - two, rel=held)  # small things depend on the version


@FAMILIES
def test_formulas_of_tokens_are_what_the_release_form_executes(benchmarks: Any, name: str) -> None:
    form = _release(benchmarks, name)
    counts = [PROMPTS] * len(list(form.prompts))
    cost = _shape(benchmarks, name).deep("tokens", counts)
    _check(benchmarks, cost, form)
    assert condensed_cost(_ours(name, execution="tokens"), counts, "tokens").macs == cost.forward


@pytest.mark.parametrize(
    ("name", "kept"),
    [(VIT, [6, 6, 6]), (VIT, [6, 1, 3]), (VIT, [0, 2, 6]), (VIT, [4, 0, 0]), (SWIN, [3, 1, 6, 2])],
)
def test_formulas_of_prefix_are_what_our_model_executes(
    benchmarks: Any, name: str, kept: list[int]
) -> None:
    shape, model = _shape(benchmarks, name), _ours(name)
    model.prompts.apply_mask([torch.arange(PROMPTS) < count for count in kept])
    cost, frozen = shape.deep("prefix", kept), shape.deep("frozen", kept)
    _check(benchmarks, cost, model)
    fvcore = condensed_cost(model, kept)
    assert (cost.forward + cost.shared_forward, cost.shared_forward) == (fvcore.macs, fvcore.shared)
    model.freeze_prompts()
    for batch in (1, 3):
        images, _ = _batch(batch, model.patch_embed.img_size)
        executed = benchmarks.arithmetic.multiply_accumulates(lambda images=images: model(images))
        assert executed == frozen.inference(batch) == batch * cost.forward


@pytest.mark.parametrize("execution", ["tokens", "prefix"])
def test_formulas_of_shallow(benchmarks: Any, execution: str) -> None:
    cost = _shape(benchmarks, VIT).shallow(execution, PROMPTS)
    # Ours norms the rows of the image alone.
    model = _ours(VIT, mode="shallow", execution=execution)
    _check(benchmarks, cost, model, held=0.03, shared=False)


def test_prompt_dropout_makes_every_image_pay_for_its_prompts(benchmarks: Any) -> None:
    model = _ours(VIT, prompt_dropout=0.1).train()
    images, labels = _batch(2, model.patch_embed.img_size)
    executed = benchmarks.arithmetic.multiply_accumulates(
        lambda: F.cross_entropy(model(images), labels).backward()
    )
    assert executed == 2 * _shape(benchmarks, VIT).deep("prefix", [PROMPTS] * 3).step(1)
