import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import SMALL, Command, Refusal

CHATTER = ("GPU available", "Seed set to", "test_dataloader", "in eval mode", "_pytree.py")


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Let the tests after these hear the loggers again."""
    yield
    for name in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.INFO)


def _test(run: Path, command: Command, *options: str) -> str:
    return command("test", run, "--trainer.limit_test_batches=1", *options).output


def test_lightning_keeps_silent_unless_it_is_asked(run: Path, command: Command) -> None:
    said = _test(run, command)
    assert f"Using {run}" in said
    assert not any(text in said for text in (*CHATTER, "Images: protocol"))
    loud = _test(run, command, "-v")
    assert "GPU available" in loud
    assert "Images: protocol" in loud
    assert not any(text in _test(run, command) for text in CHATTER)  # -v is not remembered


def test_a_quiet_fit_prints_its_result_alone(work: Path, command: Command) -> None:
    ended = command("fit", "--config=demo.yaml", *SMALL, "--condense.keep=null", "-q")
    assert ended.output.startswith("Result on "), ended.output
    assert ended.output.splitlines()[-3:] == [
        "Run folder: runs/demo/version_0",
        "Report: runs/demo/version_0/report.html",
        "Next: pcvpt test runs/demo/version_0",
    ]
    assert "quiet" not in Path("runs/demo/version_0/config.yaml").read_text()


@pytest.mark.parametrize("options", [("-q", "-v"), ("--quiet", "--verbose")])
def test_quiet_and_verbose_contradict_each_other(
    options: tuple[str, ...], refusal: Refusal
) -> None:
    assert "-q and -v" in refusal("fit", "--config=demo.yaml", *options)
