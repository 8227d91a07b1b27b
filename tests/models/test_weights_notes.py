"""What is said while a backbone gets its weights, and to whom."""

import logging
from typing import Any

import pytest
import timm

import pcvpt.models.factory as factory
from pcvpt.models.weights import notes
from pcvpt.models.weights.notes import LOG, normalization_note, say, weights_note


def test_a_short_name_of_the_papers_backbone_says_that_its_weights_are_others() -> None:
    assert weights_note("vit_base_patch16_224") == (
        "vit_base_patch16_224: timm's default weights, "
        "vit_base_patch16_224.augreg2_in21k_ft_in1k; those of Visual Prompt Tuning are "
        "vit_base_patch16_224.orig_in21k"
    )
    note = weights_note("swin_base_patch4_window7_224")
    assert note is not None
    assert note.endswith("swin_base_patch4_window7_224.ms_in22k")


def test_a_short_name_with_several_weights_says_which_they_are() -> None:
    note = weights_note("vit_small_patch16_224")
    assert note is not None
    assert note.startswith("vit_small_patch16_224: timm's default weights, vit_small_patch16_224.")
    assert "others in timm.list_pretrained('vit_small_patch16_224.*')" in note


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224.orig_in21k",
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        "vit_demo_patch8_32",  # has one set of weights
        "hf-hub:someone/model",
        "no_such_model",
    ],
)
def test_there_is_nothing_to_say_without_a_choice(name: str) -> None:
    assert weights_note(name) is None


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_note_is_said_only_when_the_weights_are_taken(
    monkeypatch: pytest.MonkeyPatch, pretrained: bool
) -> None:
    said: list[str] = []
    create = factory.timm.create_model

    def without_download(name: str, pretrained: bool, **options: Any) -> Any:
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(factory.timm, "create_model", without_download)
    monkeypatch.setattr(factory, "say", said.append)
    size = {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 3}
    factory.create_model("vit_base_patch16_224", 5, 4, pretrained=pretrained, **size)
    assert said == [weights_note("vit_base_patch16_224")] * pretrained


@pytest.fixture
def unhandled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the handlers that pytest sets up."""
    monkeypatch.setattr(LOG, "hasHandlers", lambda: False)


@pytest.mark.usefixtures("unhandled")
def test_without_any_handler_a_line_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("a line")
    assert capsys.readouterr().err == "a line\n"


@pytest.mark.usefixtures("unhandled")
def test_a_higher_level_silences_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LOG, "level", logging.WARNING)
    say("a line")
    assert capsys.readouterr().err == ""


def test_a_handler_gets_the_line_instead(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="pcvpt"):
        say("a line")
    assert caplog.messages == ["a line"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_only_the_first_process_speaks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    with caplog.at_level(logging.INFO, logger="pcvpt"):
        monkeypatch.setenv(variable, "1")
        notes.say("of the second")
        monkeypatch.setenv(variable, "0")
        notes.say("of the first")
    assert caplog.messages == ["of the first"]


def test_the_normalisation_of_a_file_s_images_is_said() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    assert normalization_note(model).startswith(
        "protocol timm normalises as vit_tiny_patch16_224.augreg_in21k_ft_in1k: mean 0.5 0.5 0.5, "
    )
    overlay = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    model = timm.create_model("vit_tiny_patch16_224", depth=1, pretrained_cfg_overlay=overlay)
    assert "mean 0.485 0.456 0.406, deviation 0.229" in normalization_note(model)
