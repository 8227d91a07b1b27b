"""Compilation, gradient checkpointing and precision change results by no more than rounding."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from factories import make_trainer, make_tuner, recipe
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset

from miniature.backbones import CLASSES, MODES, arguments, images, masked, plain, shake
from pcvpt import score_prompts
from pcvpt.cli.main import main
from pcvpt.errors import UsageError

METHODS = ("gate", "token", "attention", "leave_one_out")
slow = pytest.mark.slow
# Rows of the table of miniature backbones, with larger images: most memory is that of the blocks.
BACKBONES = {"class_token": 64, "eva02": 56, "dinov3": 64, "beit": 64, "swin": 64}
COMMON = ["class_token", "swin"]
SOME = [*COMMON, *(pytest.param(name, marks=slow) for name in BACKBONES if name not in COMMON)]


def _tuner(backbone: str = "class_token", **options: Any) -> Any:
    name, size = arguments(backbone, img_size=BACKBONES[backbone])
    adamw = recipe(optimizer=AdamW, base_lr=0.1, warmup_epochs=0)
    options = {"num_classes": CLASSES, "prompt": adamw, "finetune": adamw, **options}
    torch.manual_seed(0)
    module = make_tuner(backbone=name, timm_kwargs=size, pretrained=False, **options)
    shake(module.model)
    return module


def _pair(setting: str, *args: str, **options: Any) -> tuple[Any, Any]:
    """Return two modules that differ in ``setting`` alone."""
    return _tuner(*args, **{setting: True}, **options), _tuner(*args, **options)


def _batch(module: Any, size: int = 6) -> tuple[Tensor, Tensor]:
    return images(module.model, size), torch.arange(size) % CLASSES


def _trained(module: Any, size: int = 6) -> tuple[Tensor, Tensor]:
    """Return logits, and the gradient of the loss in all prompts, of one training step."""
    module.train().zero_grad()
    torch.manual_seed(3)
    pixels, labels = _batch(module, size)
    logits = module(pixels).float()
    F.cross_entropy(logits, labels).backward()
    gradients = [parameter.grad for parameter in module.model.prompts.parameters()]
    return logits.detach(), module.model.prompts.stack(gradients)


def _require_same_training(one: Any, two: Any, tolerance: float) -> None:
    """Fail unless steps give the same, to ``tolerance`` of the largest number; 0 is bit for bit."""
    for size in (6, 5):
        for ours, expected in zip(_trained(one, size), _trained(two, size), strict=True):
            assert expected.any()
            atol = tolerance * float(expected.abs().max())
            torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


def _scores(module: Any, method: Any) -> Tensor:
    batches = [_batch(module, size) for size in (6, 5)]
    return torch.stack(score_prompts(module.model, batches, method))


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
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_phase_compiles_a_graph_to_train_and_one_to_evaluate(
    backbone: str, mode: str, graphs: CompileCounterWithBackend
) -> None:
    module, seen = _tuner(backbone, mode=mode, prompt_dropout=0.1, compile=True), []
    for mask in (False, True):
        if mask:
            masked(module.model)
        for size in (6, 6, 5, 2):
            _trained(module, size)
        seen.append(graphs.frame_count)
        module.eval()
        for size in (6, 6, 5, 2):
            with torch.inference_mode():
                module(images(module.model, size))
        seen.append(graphs.frame_count)
    assert seen == [1, 2, 3, 4]
    assert not counters["graph_break"]


def test_a_compiled_model_follows_its_mask(graphs: CompileCounterWithBackend) -> None:
    module, uncompiled = _pair("compile")
    for first in (0, 1):  # as many prompts, but others
        keep = torch.zeros_like(module.model.prompts.keep)
        keep[:, first : first + 2] = True
        for tuner in (module, uncompiled):
            masked(tuner.model, keep)
        _require_same_training(module, uncompiled, 1e-5)
    assert graphs.frame_count == 1


def test_the_mode_is_that_of_torch_and_its_time_is_told(
    graphs: CompileCounterWithBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = _tuner(compile="default")
    with caplog.at_level("INFO", logger="pcvpt"):
        for _ in range(2):
            _trained(module)
            module.eval()(images(module.model))
    told = [line for line in caplog.messages if line.startswith("compile: ")]
    assert [line.split(" took ")[0] for line in told] == [
        f"compile: the first pass of {name}" for name in ("training", "evaluation")
    ]
    given: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda *_, **options: given.append(options["mode"]))
    for mode in (True, "reduce-overhead"):
        _tuner(compile=mode)
    assert given == [None, "reduce-overhead"]
    with pytest.raises(UsageError, match=r"compile='fast'; give .*max-autotune"):
        _tuner(compile="fast")


@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
@pytest.mark.parametrize("backbone", COMMON)
def test_compiled_code_computes_the_same_on_a_gpu(backbone: str, mode: Any) -> None:
    torch._dynamo.reset()
    found = []
    for compiled in (mode, False):
        module = _tuner(backbone, compile=compiled).to("cuda").train()
        masked(module.model)
        pixels, losses = images(module.model).to("cuda"), []
        for _ in range(3):  # CUDA graphs are recorded in the second step and replayed in the third
            module.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = module(pixels).float().square().mean()
            loss.backward()
            losses.append(loss.detach().clone())
        gradients = [own.grad.norm() for own in module.model.prompts.parameters()]
        found.append(torch.stack([*losses, *gradients]))
    torch.testing.assert_close(*found, rtol=0.05, atol=0)


@slow
@pytest.mark.parametrize("method", METHODS)
def test_scoring_neither_uses_nor_makes_compiled_code(
    method: str, graphs: CompileCounterWithBackend
) -> None:
    module, uncompiled = _pair("compile")
    assert list(module.state_dict()) == list(uncompiled.state_dict())
    module.eval()(images(module.model))
    assert graphs.frame_count == 1
    assert torch.equal(_scores(module, method), _scores(uncompiled, method))
    assert graphs.frame_count == 1


def test_compiling_without_a_compiler_is_refused_before_data_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["fit", "--config=demo.yaml", "--model.compile=true", "--trainer.accelerator=cpu"])
    said = capsys.readouterr().err
    assert "pcvpt: error: compile=True needs" in said
    assert "'no-such-compiler -O3'" in said
    assert "Data:" not in said
    _tuner()  # needs none


@slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backbone", COMMON)
def test_compiled_code_computes_the_same(backbone: str) -> None:
    torch._dynamo.reset()
    pair = _pair("compile", backbone)
    for tuner in pair:
        masked(tuner.model)
    _require_same_training(*pair, 1e-5)


def _held_bytes(module: Any) -> int:
    """Return the bytes that a training step holds for its backward pass, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = module.train()(images(module.model, 6))
    logits.sum().backward()
    return sum(held.values())


@pytest.mark.parametrize("backbone", SOME)
def test_checkpointing_holds_less_and_changes_no_bit(
    backbone: str, mode: str, execution: str
) -> None:
    options = {"mode": mode, "execution": execution, "prompt_dropout": 0.3}
    module, unchecked = _pair("gradient_checkpointing", backbone, **options)
    for tuner in (module, unchecked):
        masked(tuner.model)
    _require_same_training(module, unchecked, 0)
    assert _held_bytes(module) < _held_bytes(unchecked) / 2


def test_the_last_block_computes_only_pooled_rows_when_checkpointed() -> None:
    module, rows = _tuner(gradient_checkpointing=True), []
    module.model.blocks[-1].mlp.register_forward_pre_hook(
        lambda _, inputs: rows.append(inputs[0].shape[1])
    )
    _trained(module)
    assert rows == [1, 1]  # forward, and once more in backward


@pytest.mark.parametrize("backbone", COMMON)
@pytest.mark.parametrize("method", METHODS)
def test_checkpointing_changes_no_score(backbone: str, method: str) -> None:
    module, unchecked = _pair("gradient_checkpointing", backbone)
    assert torch.equal(_scores(module, method), _scores(unchecked, method))


def _error(rounded: Tensor, exact: Tensor) -> float:
    return float((rounded.float() - exact).norm() / exact.norm())


def _in_both(compute: Callable[[], tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Return what is computed in pairs (under bfloat16 autocast, in float32)."""
    exact = compute()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = compute()
    return list(zip(rounded, exact, strict=True))


def _errors_of_timm(module: Any, backbone: str) -> list[float]:
    """Return what rounding does to timm's own model: to logits, and to a gradient at its input."""
    own = plain(module.model, backbone, img_size=BACKBONES[backbone])

    def compute() -> tuple[Tensor, Tensor]:
        pixels, labels = _batch(module)
        logits = own(pixels.requires_grad_()).float()
        F.cross_entropy(logits, labels).backward()
        assert pixels.grad is not None
        return logits.detach(), pixels.grad

    return [_error(*pair) for pair in _in_both(compute)]


# Errors are sums of random roundings, whose size differs between computations with as many of
# them. A part computed with two bits less would show.
LEEWAY = 3


@pytest.mark.parametrize("backbone", SOME)
def test_bfloat16_rounds_as_it_does_in_timm(backbone: str, mode: str) -> None:
    rounded = {}
    for execution in ("prefix", "tokens"):
        module = _tuner(backbone, mode=mode, execution=execution)
        pairs = _in_both(partial(_trained, module))
        bounds = [LEEWAY * error for error in _errors_of_timm(module, backbone)]
        for (ours, exact), bound in zip(pairs, bounds, strict=True):
            assert 0 < _error(ours, exact) < bound
        rounded[execution] = [ours for ours, _ in pairs]
    for prefix, tokens, bound in zip(rounded["prefix"], rounded["tokens"], bounds, strict=True):
        assert _error(prefix, tokens.float()) < bound


@pytest.mark.parametrize("method", ["gate", "token", "attention"])
def test_scores_are_computed_in_float32_within_a_run_in_bfloat16(method: str, mode: str) -> None:
    module = _tuner(mode=mode)
    with torch.autocast("cpu", torch.bfloat16):
        scores = _scores(module, method)
    assert torch.equal(scores, _scores(module, method))


@pytest.mark.parametrize("backbone", COMMON)
def test_prompts_and_their_optimizer_stay_in_float32(tmp_path: Path, backbone: str) -> None:
    module = _tuner(backbone)
    trainer = make_trainer(tmp_path, [], max_epochs=1, precision="bf16-mixed")
    trainer.fit(module, DataLoader(TensorDataset(*_batch(module, 9)), batch_size=4))
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    state = trainer.optimizers[0].state
    trained = [p for p in module.parameters() if p.requires_grad]
    assert len(trained) == len(state) > 2
    assert {value.dtype for p in trained for value in state[p].values()} == {torch.float32}
    assert torch.isfinite(module.model.prompts.stack()).all()


@slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("graphs", ["eager", "inductor"], indirect=True)
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
    assert sum(json.loads((run / "results.json").read_text())["kept"]) == 4
    figures = []
    for compiled in ("true", "false"):
        options = [f"--model.compile={compiled}", "--data.batch_size=500"]
        main(["test", str(run), "--retest", *options])
        figures.append(json.loads((run / "test-finetune-best.json").read_text())["test/loss"])
    assert figures[0] == pytest.approx(figures[1], rel=2**-8)
    assert graphs.frame_count == 5
