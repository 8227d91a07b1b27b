"""Shipped configs, spoilt at random: each is read, or refused with one line that names the file."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pcvpt.cli import main as cli
from pcvpt.cli.config_errors import explain, parse
from pcvpt.cli.config_files import CONFIGS, expand
from pcvpt.errors import UsageError

SHIPPED = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.name != "base.yaml"]
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 3, 10**400, 0.3, 1e308, float("nan"), float("inf"), -0.0),
    *(
        "",
        " ",
        "x",
        "x" * 5000,
        "3",
        "0.3",
        "null",
        "~no-such-user/x",
        "../..",
        "ünïcödé \u202e\u2028",
    ),
    *(
        "a.b.c",
        "pcvpt.data.DemoDataModule",
        "torch.optim.SGD",
        "os.system",
        "base.yaml",
        "{",
        "[1",
        "\0",
    ),
    *([], [[]], [1, "a", None], {}, {"a": {"b": [1]}}, {"class_path": "x"}, {"init_args": {}}),
    *({1: 2}, {None: 1}, {"class_path": "pcvpt.data.DemoDataModule", "batch_size": 3}),
]
Parse = Callable[[str], Any]


@pytest.fixture(scope="module")
def parsers() -> tuple[Any, Any]:
    """The parser of the command, and that of `fit`; they take long to build."""
    built: list[Any] = []

    class Built(BaseException):
        pass

    def keep(self: Any, parser: Any, args: Any) -> None:
        built.extend([parser, self._parser("fit")])
        raise Built

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.Command, "parse_arguments", keep)
        with pytest.raises(Built):
            cli.main(["fit", "--config", "demo.yaml"])
    return built[0], built[1]


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Return each mapping or list of ``tree`` with each of its keys or places."""
    if not isinstance(tree, (dict, list)):
        return []
    places = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    below = [pair for place in places for pair in _nodes(tree[place])]
    return [(tree, place) for place in places] + below


def _typo(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    return rng.choice(
        [text[:at] + text[at + 1 :], text[:at] + "x" + text[at:], text[::-1], text.upper()]
    )


def _spoil_tree(rng: random.Random, tree: dict[Any, Any]) -> None:
    """Change one place of ``tree``: rename, delete, replace, nest, or move it."""
    nodes = _nodes(tree)
    if not nodes:
        tree["model"] = rng.choice(STRANGE)
        return
    holder, place = rng.choice(nodes)
    how = rng.randrange(6)
    if how == 0 and isinstance(place, str):
        holder[_typo(rng, place)] = holder.pop(place)
    elif how == 1:
        del holder[place]
    elif how == 2:
        holder[place] = {"init_args": holder[place]}
    elif how == 3:
        holder[place] = [holder[place]]
    elif how == 4:
        tree[place if isinstance(place, str) else "moved"] = holder[place]
    else:
        holder[place] = rng.choice(STRANGE)


def _spoil_text(rng: random.Random, text: str) -> str:
    """Change the YAML itself: cut it, tabs, a key twice, aliases, odd characters, tags."""
    at = rng.randrange(len(text) + 1)
    lines = text.splitlines() or [""]
    line = rng.choice(lines)
    return rng.choice(
        [
            text[:at],
            text[:at] + rng.choice("\t\0{}[]:#&*!|>'\"%@`é\u2028\ufeff-") + text[at:],
            text.replace("  ", "\t", 1),
            text + line.lstrip() + "\n",
            text + "model: {num_prompts: 7}\n",
            "a: &a {b: *a}\n" + text,
            "a: &a [1]\nb: *a\n" + text,
            text + "---\nmodel: {}\n",
            text.replace(": ", ": !!python/name:os.system ", 1),
            text + "model: " + "[" * 400 + "]" * 400 + "\n",
            text + "model.num_prompts: 5\n",
            text + "1: 2\nnull: 3\n",
            "[" + text.replace("\n", ","),
            text.replace("true", "yes").replace("0.", ".0e"),
        ]
    )


@pytest.mark.parametrize("seed", range(7))
def test_a_spoilt_config_is_read_or_refused_with_one_line(
    seed: int, parsers: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.yaml"
    read = refused = 0
    for _ in range(50):
        tree = yaml.safe_load(rng.choice(SHIPPED).read_text(encoding="utf-8")) or {}
        for _ in range(rng.randrange(3)):
            _spoil_tree(rng, tree)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        if rng.random() < 0.5:
            text = _spoil_text(rng, text)
        own.write_text(text, encoding="utf-8")
        try:
            arguments = ["fit", *expand(["--config", "demo.yaml", "--config", str(own)])[0]]
            parse(parsers[0], parsers[1], arguments)
        except UsageError as error:
            said = str(error)
            assert "\n" not in said, (said, text)
            assert "own.yaml" in said, (said, text)
            assert len(said) < 600, (said, text)
            refused += 1
        else:
            assert explain("", parsers[1], arguments) == "", text  # nothing wrong is found
            read += 1
    assert read >= 5
    assert refused >= 5


@pytest.mark.parametrize("config", SHIPPED, ids=lambda path: path.stem)
def test_nothing_is_found_wrong_in_a_shipped_config(config: Path, parsers: tuple[Any, Any]) -> None:
    arguments = ["fit", *expand(["--config", str(config)])[0]]
    assert explain("", parsers[1], arguments) == ""
