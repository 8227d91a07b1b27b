"""Errors of a configuration name the file, the key, its value, and the nearest right one."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pcvpt.cli.config_errors import parse, type_in_words
from pcvpt.cli.config_files import CONFIGS, expand
from pcvpt.errors import UsageError

SHIPPED = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.name != "base.yaml"]
CALLBACK = "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.%s, init_args: %s}]}"
STRANGE: list[Any] = [
    *(None, True, 0, -1, 10**400, 0.3, float("nan"), float("inf"), "", "x" * 5000, "3", "null"),
    *(
        "~no-such-user/x",
        "ünïcödé \u202e\u2028",
        "a.b.c",
        "torch.optim.SGD",
        "os.system",
        "{",
        "\0",
    ),
    *([], [[]], [1, "a", None], {}, {"a": {"b": [1]}}, {"class_path": "x"}, {"init_args": {}}),
    *({1: 2}, {None: 1}, {"class_path": "pcvpt.data.DemoDataModule", "batch_size": 3}),
]


@pytest.fixture
def error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The error of the demo with own.yaml, which holds a text, and options; "" for none."""
    monkeypatch.chdir(tmp_path)

    def of(text: str, *options: str) -> str:
        Path("own.yaml").write_text(text, encoding="utf-8")
        try:
            parse("fit", expand(["--config", "demo.yaml", "--config=own.yaml", *options])[0])
        except UsageError as found:
            return str(found)
        return ""

    return of


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: {num_prompt: 3}", ["model.num_prompt;", "model.num_prompts?"]),
        ("modell: {num_prompts: 3}", ["modell;", "model?"]),
        ("keep: 0.1", ["keep;", "condense.keep?"]),
        ("batch_size: 3", ["batch_size;", "data.init_args.batch_size?"]),
        ("data: {init_args: {batchsize: 3}}", ["data.init_args.batchsize;", ".batch_size?"]),
        ("data: {class_path: DemoDataModule, batch_size: 3}", ["data.batch_size;", "init_args"]),
        (
            CALLBACK % ("EarlyStopping", "{monitr: x}"),
            ["trainer.callbacks[0].init_args.monitr;", ".monitor?"],
        ),
        (CALLBACK % ("EarlyStopping", "{patience: x}"), ["[0].init_args.patience", "'x'", "whole"]),
        (
            CALLBACK % ("EarlyStoping", "{}"),
            ["trainer.callbacks", "EarlyStopping?"],
        ),
        (
            "model: {prompt: {optimizer: {init_args: {momentun: 0.9}}}}",
            ["model.prompt.optimizer.init_args.momentun", "weight_decay"],
        ),
        ("model: {prompt: 3}", ["model.prompt", "3"]),
        ("data: {class_path: pcvpt.data.StanfordCar}", ["data:", "pcvpt.data.StanfordCars?"]),
        ("data: torch.nn.Linear", ["data:", "torch.nn.Linear"]),
        ("data: {init_args: 3}", ["data.init_args", "3"]),
        ("data: pcvpt.data.ImageFolderDataModule", ["ImageFolderDataModule needs root"]),
        ("model: {num_prompts: many}", ["model.num_prompts", "'many'", "a whole number"]),
        (  # the list of numbers, which might hold tensors too, is right
            "model: {prompt: {optimizer: {class_path: torch.optim.AdamW, init_args: "
            "{betas: [0.9, 0.99]}}}, num_prompt: 3}",
            ["model.num_prompt;"],
        ),
        (
            "condense: {keep: [0.3, x]}",
            ["condense.keep", "[0.3, 'x']", "list of numbers or null"],
        ),
        ("model: {mode: deepp}", ["model.mode", "'deepp'", "deep, shallow or linear", "deep?"]),
        ("trainer: {precision: 17}", ["trainer.precision", "17", "64, 32, 16"]),
        ("trainer: {callbacks: [{init_args: {}}]}", ["trainer.callbacks", "class_path"]),
        ("trainer:", ["trainer is empty"]),
        ("condense: [1]", ["condense is [1]"]),
        ("trainer: none.yaml", ["trainer", "'none.yaml'", "a mapping"]),
        ("output_dir: 3", ["output_dir", "3", "text"]),
        ("config: 3", ["config"]),
        ("on: 3", ["true", "quotes"]),
        ("- 1\n- 2", ["mapping"]),
        ("model: {a: 3", ["line 1, column 13"]),
        ("model:\n\tmode: deep", ["line 2, column 1", "a tab"]),
        ("model: {mode: deep}\ncondense: {keep: 1}\nmodel: {}", ["line 3", "model", "line 1"]),
        ("a: {b: 1, b: 2}", ["line 1", "b is there twice"]),
        ("model.num_prompts: 3\nmodel: {mode: deep}", ["line 1: model.num_prompts"]),
        ("model: &a {timm_kwargs: *a}", ["line 1: an alias"]),
        ("a: 1\n---\nb: 2", ["line 2, column 1"]),
        ('a: "\\0"', ["line 1: a NUL"]),
        (f"model: {'[' * 99}{']' * 99}", ["line 1: nested more than 30 deep"]),
    ],
)
def test_a_wrong_file_is_named_with_the_key_and_what_is_right(
    text: str, parts: list[str], error: Callable[..., str]
) -> None:
    found = error(text)
    assert found.startswith("own.yaml: ")
    for part in parts:
        assert part in found


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--condense.kep=0.3"], ["--condense.kep;", "--condense.keep?"]),
        (["--keep", "0.3"], ["--keep;", "--condense.keep?"]),
        (["--data.batchsize=3"], ["--data.batchsize;", "--data.batch_size?"]),
        (["--model.num_prompts=many"], ["--model.num_prompts", "'many'", "a whole number"]),
        (["--trainer.callbacks+=EarlyStoping"], ["--trainer.callbacks", "EarlyStopping?"]),
        (["--condense.keep"], ["--condense.keep"]),
        (["--model", "3"], ["--model", "'3'"]),
        (["0.3"], ["0.3", "--"]),
    ],
)
def test_a_wrong_option_is_named_with_what_is_right(
    options: list[str], parts: list[str], error: Callable[..., str]
) -> None:
    found = error("{}", *options)
    assert found.startswith("the command line: ")
    for part in parts:
        assert part in found


def test_of_several_files_the_wrong_one_is_named(error: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "base.yaml").write_text("condense: {kep: 0.3}")
    (tmp_path / "mine" / "first.yaml").write_text("model: {num_prompts: 5}")
    found = error("{}", "--config=mine/first.yaml")
    assert found.startswith(f"{tmp_path / 'mine' / 'base.yaml'}: unknown key condense.kep;")


def test_a_file_in_another_encoding_is_named(error: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: Käfer".encode("latin-1"))
    assert error("{}", "--config=latin.yaml").startswith("latin.yaml: not readable")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Union[int, list[float], null]", "a whole number, a list of numbers or null"),
        ("<class 'str'>, <class 'NoneType'>", "text or null"),
        ("Optional[bool]", "true or false or null"),
        ("Callable[[Iterable], torch.optim.Optimizer]", "a class_path of the kind Optimizer"),
    ],
)
def test_types_are_described_in_words(text: str, words: str) -> None:
    assert type_in_words(text) == words


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return each mapping or list of ``tree`` with each of its keys or places."""
    if not isinstance(tree, dict | list):
        return []
    own = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    return [(tree, place) for place in own] + [pair for p in own for pair in _places(tree[p])]


def _spoil_tree(rng: random.Random, tree: dict[Any, Any]) -> None:
    """Rename, delete, replace, nest or move one place of ``tree``."""
    holder, place = rng.choice(_places(tree) or [(tree, "model")])
    value = holder.pop(place) if isinstance(place, str) and place in holder else None
    at = rng.randrange(9)
    spoilt = {
        0: {f"{place}x": value},
        1: {},
        2: {place: {"init_args": value}},
        3: {place: [value]},
    }.get(at, {place: rng.choice(STRANGE)})
    if isinstance(holder, dict):
        holder.update(spoilt)
    else:
        holder[place] = rng.choice(STRANGE)


def _spoil_text(rng: random.Random, text: str) -> str:
    """Change the YAML itself: cut it, add tabs, keys, aliases, odd characters or tags."""
    at = rng.randrange(len(text) + 1)
    return rng.choice(
        [
            text[:at],
            text[:at] + rng.choice("\t\0{}[]:#&*!|>'\"%@`é\u2028\ufeff-") + text[at:],
            text.replace("  ", "\t", 1),
            text + (text.splitlines() or [""])[-1].lstrip() + "\n",
            "a: &a {b: *a}\n" + text,
            text + "---\nmodel: {}\n",
            text.replace(": ", ": !!python/name:os.system ", 1),
            text + "model.num_prompts: 5\n",
            text + "1: 2\nnull: 3\n",
            "[" + text.replace("\n", ","),
        ]
    )


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))]
)
def test_a_spoilt_config_is_read_or_refused_in_one_line(
    seed: int, error: Callable[..., str]
) -> None:
    rng = random.Random(seed)
    results = []
    for _ in range(25):
        tree = yaml.safe_load(rng.choice(SHIPPED).read_text(encoding="utf-8")) or {}
        for _ in range(rng.randrange(3)):
            _spoil_tree(rng, tree)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        text = _spoil_text(rng, text) if rng.random() < 0.5 else text
        found = error(text)
        results.append(bool(found))
        if found:
            assert "\n" not in found, (found, text)
            assert "own.yaml" in found, (found, text)
            assert len(found) < 600, (found, text)
    assert set(results) == {True, False}
