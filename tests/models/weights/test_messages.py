"""Notes about the weights that a backbone gets, and where they are written."""

import logging
from typing import Any

import pytest
import timm

from miniature.backbones import PLAIN
from pcvpt.models import factory
from pcvpt.models.weights.messages import (
    LOG,
    log_in_first_process,
    normalization_note,
    weights_note,
)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("vit_base_patch16_224", [".augreg2_in21k_ft_in1k", ".orig_in21k"]),
        ("swin_base_patch4_window7_224", [".ms_in22k"]),
        ("vit_small_patch16_224", ["timm.list_pretrained('vit_small_patch16_224.*')"]),
        ("vit_base_patch16_224.orig_in21k", None),
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", None),
        ("vit_demo_patch8_32", None),  # has one set of weights
        ("hf-hub:someone/model", None),
        ("no_such_model", None),
    ],
)
def test_a_name_with_several_weights_gets_a_note_of_those_taken_and_the_papers(
    name: str, parts: list[str] | None
) -> None:
    note = weights_note(name)
    assert (note is None) == (parts is None)
    assert all(part in str(note) for part in parts or [])


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_note_is_written_only_when_the_weights_are_taken(
    monkeypatch: pytest.MonkeyPatch, pretrained: bool
) -> None:
    said: list[str] = []
    create = factory.timm.create_model

    def without_download(name: str, pretrained: bool, **options: Any) -> Any:
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(factory.timm, "create_model", without_download)
    monkeypatch.setattr(factory, "log_in_first_process", said.append)
    factory.create_model("vit_base_patch16_224", 5, 4, pretrained=pretrained, **PLAIN)
    assert said == [weights_note("vit_base_patch16_224")] * pretrained


@pytest.mark.parametrize(("level", "written"), [(logging.INFO, "a line\n"), (logging.WARNING, "")])
def test_without_any_handler_a_line_goes_to_stderr_unless_the_level_is_higher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: int, written: str
) -> None:
    monkeypatch.setattr(LOG, "propagate", False)  # to the handlers of pytest
    monkeypatch.setattr(LOG, "level", level)
    log_in_first_process("a line")
    assert capsys.readouterr().err == written


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK"])
def test_only_the_first_process_writes_and_a_handler_gets_the_line(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    variable: str,
) -> None:
    with caplog.at_level(logging.INFO, logger="pcvpt"):
        monkeypatch.setenv(variable, "1")
        log_in_first_process("of the second")
        monkeypatch.setenv(variable, "0")
        log_in_first_process("of the first")
    assert caplog.messages == ["of the first"]
    assert capsys.readouterr().err == ""


def test_the_normalisation_of_a_files_images_is_noted() -> None:
    overlay = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    model = timm.create_model("vit_tiny_patch16_224", depth=1, pretrained_cfg_overlay=overlay)
    note = normalization_note(model)
    for part in ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "0.485 0.456", "deviation 0.229"):
        assert part in note
