"""Compilation, gradient checkpointing and precision change results by no more than rounding."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from factories import PROMPTS, make_trainer, make_tuner, recipe
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset

from pcvpt import PromptTuner, UsageError, score_prompts
from pcvpt.cli.main import main

CLASSES = 3
METHODS = ("gate", "token", "attention", "leave_one_out")
slow = pytest.mark.slow
PLAIN = {"depth": 3, "embed_dim": 48, "num_heads": 3}
BACKBONES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", 64, PLAIN),
    "eva": ("eva02_tiny_patch14_224", 56, PLAIN),
    "dinov3": ("vit_small_patch16_dinov3", 64, PLAIN),
    "beit": ("beit_base_patch16_224", 64, PLAIN),
    "swin": (
        "swin_tiny_patch4_window7_224",
        64,
        {"depths": (2, 2), "embed_dim": 24, "num_heads": (2, 4), "window_size": 4},
    ),
}


def _shake(model: nn.Module) -> None:
    """Move every parameter away from its initial value, so that each one shows in the output."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        base: Any = parameter.data if parameter.ndim == 1 else 0
        if parameter.ndim == 1 and parameter.abs().max() < 1e-3:  # a tiny LayerScale, and biases
            base = 0.5
        parameter.data = base + 0.2 * noise


def _tuner(backbone: str = "vit", **options: Any) -> PromptTuner:
    name, side, size = BACKBONES[backbone]
    adamw = recipe(optimizer=AdamW, base_lr=0.1, warmup_epochs=0)
    defaults = {"num_classes": CLASSES, "prompt": adamw, "finetune": adamw, "pretrained": False}
    torch.manual_seed(0)
    module = make_tuner(
        backbone=name, **{**defaults, "image_size": side, "timm_kwargs": size, **options}
    )
    _shake(module.model)
    return module


def _pair(
    setting: str, backbone: str = "vit", keep: Any = None, **options: Any
) -> tuple[PromptTuner, PromptTuner]:
    """Return two modules that differ in ``setting``, and keep the same prompts."""
    pair = _tuner(backbone, **{setting: True}, **options), _tuner(backbone, **options)
    for module in pair:
        module.model.prompts.apply_mask(keep or _ragged(module))
    return pair


def _images(module: PromptTuner, batch: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, *module.input_spec.image_size, generator=generator)


def _labels(batch: int = 6) -> Tensor:
    return torch.arange(batch) % CLASSES


def _batches(module: PromptTuner) -> list[tuple[Tensor, Tensor]]:
    return [(_images(module, size), _labels(size)) for size in (6, 5)]


def _ragged(module: PromptTuner) -> list[Tensor]:
    """Return a mask that keeps 3, 0, 1, 2, 3, ... prompts of the layers."""
    layers = len(module.model.prompts.keep)
    return [torch.arange(PROMPTS) < (3 - 3 * layer) % 4 for layer in range(layers)]


def _trained(module: PromptTuner, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits, and the gradient of the loss in all prompts, of one training step."""
    module.train()
    module.zero_grad()
    torch.manual_seed(3)
    logits = module(images).float()
    F.cross_entropy(logits, _labels(len(images))).backward()
    gradients = [parameter.grad for parameter in module.model.prompts.parameters()]
    return logits.detach(), module.model.prompts.stack(gradients)


def _require_same_training(one: PromptTuner, two: PromptTuner, tolerance: float) -> None:
    """Fail unless steps give the same, to ``tolerance`` of the largest number; 0 is bit for bit."""
    for size in (6, 5):
        images = _images(one, size)
        for ours, expected in zip(_trained(one, images), _trained(two, images), strict=True):
            assert expected.any()
            atol = tolerance * float(expected.abs().max())
            torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


def _require_same_scores(one: PromptTuner, two: PromptTuner, method: Any) -> None:
    scores = (score_prompts(tuner.model, _batches(tuner), method) for tuner in (one, two))
    for ours, expected in zip(*scores, strict=True):
        assert torch.equal(ours, expected)


@pytest.fixture
def graphs(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> CompileCounterWithBackend:
    """Count the graphs that are compiled, without code generation unless a test asks for it."""
    torch._dynamo.reset()
    counters.clear()
    backend = CompileCounterWithBackend(getattr(request, "param", "eager"))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    return backend


@slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_phase_compiles_a_graph_to_train_and_one_to_evaluate(
    backbone: str, mode: str, graphs: CompileCounterWithBackend
) -> None:
    module = _tuner(backbone, mode=mode, prompt_dropout=0.1, compile=True)
    seen = []
    for keep in (None, _ragged(module)):
        if keep is not None:
            module.model.prompts.apply_mask(keep)
        for size in (6, 6, 5, 2):
            _trained(module, _images(module, size))
        seen.append(graphs.frame_count)
        module.eval()
        for size in (6, 6, 5, 2):
            with torch.inference_mode():
                module(_images(module, size))
        seen.append(graphs.frame_count)
    assert seen == [1, 2, 3, 4]
    assert not counters["graph_break"]


def test_a_compiled_model_follows_its_mask(graphs: CompileCounterWithBackend) -> None:
    module, plain = _pair("compile")
    for first in (0, 1):  # as many prompts, but others
        keep = torch.zeros_like(module.model.prompts.keep)
        keep[:, first : first + 2] = True
        for tuner in (module, plain):
            tuner.model.prompts.apply_mask(list(keep))
        _require_same_training(module, plain, 1e-5)
    assert graphs.frame_count == 1


@pytest.mark.parametrize(
    "method", ["gate", *(pytest.param(name, marks=slow) for name in METHODS[1:])]
)
def test_scoring_neither_uses_nor_makes_compiled_code(
    method: Any, graphs: CompileCounterWithBackend
) -> None:
    module, plain = _tuner(compile=True), _tuner()
    assert list(module.state_dict()) == list(plain.state_dict())
    module.eval()(_images(module))
    assert graphs.frame_count == 1
    _require_same_scores(module, plain, method)
    assert graphs.frame_count == 1


def test_compiling_without_a_compiler_is_refused_before_data_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"compile=True needs .*'no-such-compiler -O3'.* CXX"):
        _tuner(compile=True)
    with pytest.raises(SystemExit):
        main(["fit", "--config=demo.yaml", "--model.compile=true", "--trainer.accelerator=cpu"])
    said = capsys.readouterr().err
    assert "pcvpt: error: compile=True needs" in said
    assert "Data:" not in said
    _tuner()  # needs none


@slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backbone", ["vit", "swin"])
def test_compiled_code_computes_the_same(backbone: str) -> None:
    torch._dynamo.reset()
    _require_same_training(*_pair("compile", backbone), 1e-5)


def _held_bytes(module: PromptTuner, images: Tensor) -> int:
    """Return the bytes that a training step holds for its backward pass, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = module.train()(images)
    logits.sum().backward()
    return sum(held.values())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_checkpointing_holds_less_and_changes_no_bit(
    backbone: str, mode: str, execution: str
) -> None:
    options = {"mode": mode, "execution": execution, "prompt_dropout": 0.3}
    module, plain = _pair("gradient_checkpointing", backbone, **options)
    _require_same_training(module, plain, 0)
    images = _images(module)
    assert _held_bytes(module, images) < _held_bytes(plain, images) / 2


def test_the_last_block_computes_only_pooled_rows_when_checkpointed() -> None:
    module = _tuner(gradient_checkpointing=True)
    rows = []
    module.model.blocks[-1].mlp.register_forward_pre_hook(
        lambda _, inputs: rows.append(inputs[0].shape[1])
    )
    _trained(module, _images(module))
    assert rows == [1, 1]  # forward, and once more in backward


@pytest.mark.parametrize("backbone", ["vit", "swin"])
@pytest.mark.parametrize("method", METHODS)
def test_checkpointing_changes_no_score(backbone: str, method: Any, mode: str) -> None:
    keep = list(torch.ones_like(_tuner(backbone, mode=mode).model.prompts.keep))
    _require_same_scores(*_pair("gradient_checkpointing", backbone, keep, mode=mode), method)


def _error(rounded: Tensor, exact: Tensor) -> float:
    return float((rounded.float() - exact).norm() / exact.norm())


def _in_both(compute: Callable[[], tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return what is computed in pairs (under bfloat16 autocast, in float32)."""
    exact = compute()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = compute()
    return list(zip(rounded, exact, strict=True))


def _errors_of_timm(module: PromptTuner, backbone: str) -> list[float]:
    """Return what rounding does to timm's own model: to logits, and to a gradient at its input."""
    name, side, size = BACKBONES[backbone]
    plain = timm.create_model(name, num_classes=CLASSES, img_size=side, **size).eval()
    state = module.model.state_dict().items()
    plain.load_state_dict({k: v for k, v in state if not k.startswith("prompts.")})

    def compute() -> tuple[Tensor, Tensor]:
        images = _images(module).requires_grad_()
        logits = plain(images).float()
        F.cross_entropy(logits, _labels()).backward()
        assert images.grad is not None
        return logits.detach(), images.grad

    return [_error(*pair) for pair in _in_both(compute)]


# Errors are sums of random roundings, whose size differs between computations with as many of
# them. A part computed with two bits less would show.
LEEWAY = 3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bfloat16_rounds_as_it_does_in_timm(backbone: str, mode: str) -> None:
    rounded = {}
    for execution in ("prefix", "tokens"):
        module = _tuner(backbone, mode=mode, execution=execution)
        pairs = _in_both(lambda module=module: _trained(module, _images(module)))
        bounds = [LEEWAY * error for error in _errors_of_timm(module, backbone)]
        for (ours, exact), bound in zip(pairs, bounds, strict=True):
            assert 0 < _error(ours, exact) < bound
        rounded[execution] = [ours for ours, _ in pairs]
    for prefix, tokens, bound in zip(rounded["prefix"], rounded["tokens"], bounds, strict=True):
        assert _error(prefix, tokens.float()) < bound


@pytest.mark.parametrize("method", ["gate", "token", "attention"])
def test_scores_are_computed_in_float32_within_a_run_in_bfloat16(method: Any, mode: str) -> None:
    module = _tuner(mode=mode)
    expected = score_prompts(module.model, _batches(module), method)
    with torch.autocast("cpu", torch.bfloat16):
        scores = score_prompts(module.model, _batches(module), method)
    for ours, other in zip(scores, expected, strict=True):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_prompts_and_their_optimizer_stay_in_float32(
    tmp_path: Path, backbone: str, mode: str
) -> None:
    module = _tuner(backbone, mode=mode)
    data = TensorDataset(_images(module, 9), _labels(9))
    trainer = make_trainer(tmp_path, [], max_epochs=1, precision="bf16-mixed")
    trainer.fit(module, DataLoader(data, batch_size=4))
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    state = trainer.optimizers[0].state
    trained = [p for p in module.parameters() if p.requires_grad]
    assert len(trained) == len(state) > 2
    assert {value.dtype for p in trained for value in state[p].values()} == {torch.float32}
    assert torch.isfinite(module.model.prompts.stack()).all()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("graphs", ["eager", "inductor"], indirect=True)
@slow
def test_a_whole_run_in_all_three_settings(
    tmp_path: Path, graphs: CompileCounterWithBackend
) -> None:
    settings = ["--model.compile=true", "--model.gradient_checkpointing=true"]
    main(
        [
            *("fit", "--config=demo.yaml", "--trainer.precision=bf16-mixed", *settings),
            *("--output_dir", str(tmp_path), "--trainer.accelerator=cpu"),
            *("--trainer.limit_train_batches=3", "--trainer.limit_val_batches=2"),
            *("--trainer.check_val_every_n_epoch=1", "--trainer.num_sanity_val_steps=0"),
            *("--condense.prompt_epochs=2", "--condense.finetune_epochs=2"),
            *("--data.batch_size=32", "--data.num_workers=0"),
            *("--model.pretrained=false", "--model.timm_kwargs.depth=2"),
        ]
    )
    assert graphs.frame_count == 4
    assert not counters["graph_break"]
    run = tmp_path / "demo" / "version_0"
    assert sum(json.loads((run / "results.json").read_text())["kept"]) == 12
    figures = []
    for compiled in ("true", "false"):
        options = [f"--model.compile={compiled}", "--trainer.limit_test_batches=2"]
        main(["test", str(run), "--retest", *options])
        figures.append(json.loads((run / "test-finetune-best.json").read_text())["test/loss"])
    assert figures[0] == pytest.approx(figures[1], rel=2**-8)
    assert graphs.frame_count == 5
