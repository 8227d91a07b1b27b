import pytest
import torch

from miniature.backbones import build, images
from pcvpt.models.evaluation_mode import evaluating


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_everything_is_restored_even_after_an_error(training: bool, gradients: bool) -> None:
    model = build(execution="prefix", prompt_dropout=0.5).train(training)
    model.head.train(not training)  # a submodule in another mode than its model
    keep = torch.rand(model.prompts.keep.shape) < 0.5
    model.prompts.apply_mask(list(keep))
    modes = {name: part.training for name, part in model.named_modules()}
    random_state = torch.get_rng_state()

    def disturb() -> None:
        with evaluating(model, gradients=gradients):
            assert not any(part.training for part in model.modules())
            model.execution = "tokens"
            model.prompts.apply_mask(list(~keep))
            torch.rand(3)
            assert model(images(model)).requires_grad is gradients
            raise KeyError

    with pytest.raises(KeyError):
        disturb()
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert (model.execution, model.prompts.counts()) == ("prefix", keep.sum(1).tolist())
    assert torch.equal(model.prompts.keep, keep)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_gradients_are_recorded_even_in_inference_mode() -> None:
    model = build()
    x = images(model)
    with torch.inference_mode():
        with evaluating(model, gradients=True):
            assert model(x).requires_grad
        assert torch.is_inference_mode_enabled()


def test_frozen_models_and_linear_probes_are_evaluated_too() -> None:
    for model in build().freeze_prompts(), build(mode="linear"):
        with evaluating(model):
            assert not model(images(model)).requires_grad
        assert not model.training
