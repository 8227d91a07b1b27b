from pathlib import Path

import pytest

from pcvpt.cli.config_files import CONFIGS, expand, find_config, with_bases
from pcvpt.errors import UsageError

BASE = CONFIGS / "base.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, far from the shipped configs."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("seed_everything: 1")
    return path


def _files(arguments: list[str]) -> list[Path]:
    assert arguments[::2] == ["--config"] * (len(arguments) // 2)
    return [Path(argument) for argument in arguments[1::2]]


def test_a_bare_name_finds_a_shipped_config_from_anywhere() -> None:
    assert find_config("demo.yaml") == CONFIGS / "demo.yaml"
    assert find_config("vpt.yaml") == CONFIGS / "methods" / "vpt.yaml"


def test_a_file_of_ones_own_wins_over_a_shipped_one(elsewhere: Path) -> None:
    _touch(elsewhere / "demo.yaml")
    assert find_config("demo.yaml").resolve() == elsewhere / "demo.yaml"
    assert _files(expand(["--config", "demo.yaml"])[0])[0] == BASE


def test_a_path_finds_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _touch(tmp_path / "mine" / "own.yaml")
    assert find_config(str(own)) == own
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_config("~/mine/own.yaml") == own


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no configuration dmeo\.yaml.*shipped are demo\.yaml"):
        find_config("dmeo.yaml")
    with pytest.raises(UsageError, match=r"demo\.yaml"):
        find_config("demo")
    with pytest.raises(UsageError, match=r"demo\.yaml.*vpt\.yaml"):
        find_config("zzzzzzzz")


def test_the_shipped_base_is_no_config_of_its_own() -> None:
    with pytest.raises(UsageError, match="no configuration base"):
        find_config("base.yaml")


def test_shipped_configs_have_names_of_their_own() -> None:
    names = [path.name for path in CONFIGS.rglob("*.yaml") if path.name != "base.yaml"]
    assert len(names) == len(set(names))


def test_a_config_builds_on_the_shipped_base_and_those_above_it(tmp_path: Path) -> None:
    outer = _touch(tmp_path / "mine" / "base.yaml")
    inner = _touch(tmp_path / "mine" / "birds" / "base.yaml")
    own = _touch(tmp_path / "mine" / "birds" / "own.yaml")
    assert with_bases(own) == [BASE, outer, inner, own]


def test_a_folder_without_a_base_ends_the_run_of_folders(tmp_path: Path) -> None:
    _touch(tmp_path / "mine" / "base.yaml")
    inner = _touch(tmp_path / "mine" / "between" / "birds" / "base.yaml")
    own = _touch(tmp_path / "mine" / "between" / "birds" / "own.yaml")
    assert with_bases(own) == [BASE, inner, own]


def test_a_shipped_config_has_the_shipped_base_once() -> None:
    assert with_bases(CONFIGS / "demo.yaml") == [BASE, CONFIGS / "demo.yaml"]
    vpt = CONFIGS / "methods" / "vpt.yaml"
    assert with_bases(vpt) == [BASE, vpt]


def test_a_base_named_itself_comes_once(tmp_path: Path) -> None:
    own = _touch(tmp_path / "mine" / "base.yaml")
    assert with_bases(own) == [BASE, own]


def test_several_configs_come_in_their_order_with_each_base_once(tmp_path: Path) -> None:
    base, first, second = (
        _touch(tmp_path / "mine" / f"{name}.yaml") for name in ("base", "first", "second")
    )
    arguments, name = expand(
        ["--config", "demo.yaml", "--config", str(first), f"--config={second}", "-c", "vpt.yaml"]
    )
    demo, vpt = CONFIGS / "demo.yaml", CONFIGS / "methods" / "vpt.yaml"
    assert _files(arguments) == [BASE, demo, base, first, second, vpt]
    assert name == "demo_first_second_vpt"


def test_other_arguments_follow_the_configs_untouched() -> None:
    arguments, name = expand(["--condense.keep=0.1", "--config=demo.yaml", "--name", "mine"])
    assert arguments[-3:] == ["--condense.keep=0.1", "--name", "mine"]
    assert _files(arguments[:-3]) == [BASE, CONFIGS / "demo.yaml"]
    assert name == "demo"


def test_without_a_config_there_is_no_name() -> None:
    assert expand(["--name", "mine"]) == (["--name", "mine"], None)


def test_an_option_without_its_file_is_refused() -> None:
    with pytest.raises(UsageError, match="--config needs"):
        expand(["--name", "mine", "--config"])


def test_an_empty_config_names_the_run_and_is_left_out(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("# nothing yet\n")
    arguments, name = expand(["--config", "demo.yaml", "--config", str(own)])
    assert _files(arguments) == [BASE, CONFIGS / "demo.yaml"]
    assert name == "demo_own"


@pytest.mark.parametrize("text", ["a: 0x", "a: 2026-02-31", "a: &a 1\nb: *a\nc: {<<: {a: 2}}"])
def test_odd_but_clear_yaml_is_read(text: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    assert expand(["--config", str(own)])[1] == "own"
