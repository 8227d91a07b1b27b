from pathlib import Path

import pytest

from pcvpt.cli.config_files import CONFIGS, expand, find_config, with_bases
from pcvpt.errors import UsageError

BASE, DEMO, VPT = CONFIGS / "base.yaml", CONFIGS / "demo.yaml", CONFIGS / "methods" / "vpt.yaml"


@pytest.fixture(autouse=True)
def _elsewhere(work: Path) -> None:
    """Work in an empty folder, far from the shipped configs."""


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("seed_everything: 1")


def _files(arguments: list[str]) -> list[Path]:
    assert arguments[::2] == ["--config"] * (len(arguments) // 2)
    return [Path(argument) for argument in arguments[1::2]]


def test_a_bare_name_finds_a_shipped_config_from_anywhere() -> None:
    assert find_config("demo.yaml") == DEMO
    assert find_config("vpt.yaml") == VPT
    names = [path.name for path in CONFIGS.rglob("*.yaml") if path.name != "base.yaml"]
    assert len(names) == len(set(names))


def test_a_path_or_a_file_of_that_name_wins_over_a_shipped_one(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(work))
    _touch(work / "demo.yaml", work / "mine" / "own.yaml")
    assert find_config("demo.yaml").resolve() == work / "demo.yaml"
    assert _files(expand(["--config", "demo.yaml"])[0]) == [BASE, Path("demo.yaml")]
    assert find_config("~/mine/own.yaml") == work / "mine" / "own.yaml"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        *[("dmeo.yaml", "demo.yaml"), ("demo", "demo.yaml"), ("zzzzzzzz", "vpt.yaml")],
        *[("base.yaml", "no configuration base.yaml"), ("~no-such-user/a.yaml", "~no-such-user")],
        *[("x" * 5000, "xxx"), ("a\0b", "a\0b"), ("nothing.yaml", "nothing.yaml")],
    ],
)
def test_a_name_of_no_file_gives_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match="no configuration ") as error:
        find_config(name)
    assert near in str(error.value)


@pytest.mark.parametrize(
    ("own", "bases"),
    [
        ("birds/own.yaml", ["base.yaml", "birds/base.yaml"]),
        ("between/birds/own.yaml", ["between/birds/base.yaml"]),  # a folder without one ends it
        ("base.yaml", []),  # which comes once
    ],
)
def test_a_config_builds_on_the_shipped_base_and_those_above_it(
    own: str, bases: list[str], work: Path
) -> None:
    _touch(work / "base.yaml", work / own, *(work / base for base in bases))
    assert with_bases(work / own) == [BASE, *(work / base for base in bases), work / own]


def test_several_configs_come_in_their_order_with_each_base_once(work: Path) -> None:
    base, first, second = (work / "mine" / f"{name}.yaml" for name in ("base", "first", "second"))
    _touch(base, first, second)
    (work / "empty.yaml").write_text("# nothing yet\n")  # names the run, and is left out
    options = ["--config", "demo.yaml", "--config", str(first), f"--config={second}"]
    arguments, name = expand([*options, "-c", "vpt.yaml", "--config=empty.yaml"])
    assert _files(arguments) == [BASE, DEMO, base, first, second, VPT]
    assert name == "demo_first_second_vpt_empty"


def test_other_arguments_follow_the_configs_untouched() -> None:
    others = ["--condense.keep=0.1", "--name", "mine"]
    assert expand(others) == (others, None)
    arguments, name = expand([others[0], "--config=demo.yaml", *others[1:]])
    assert arguments == ["--config", str(BASE), "--config", str(DEMO), *others]
    assert name == "demo"


def test_an_option_without_its_file_is_refused() -> None:
    with pytest.raises(UsageError, match="--config needs"):
        expand(["--name", "mine", "--config"])


@pytest.mark.parametrize("text", ["a: 0x", "a: 2026-02-31", "a: &a 1\nb: *a\nc: {<<: {a: 2}}"])
def test_odd_but_clear_yaml_is_read(text: str, work: Path) -> None:
    (work / "own.yaml").write_text(text)
    assert expand(["--config", "own.yaml"])[1] == "own"
