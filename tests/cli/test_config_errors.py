"""Errors of a configuration name the file, the key, its value, and the nearest right one."""

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pcvpt.cli.config_errors import parse, type_in_words
from pcvpt.cli.config_files import CONFIGS, expand
from pcvpt.errors import UsageError

from .conftest import Refusal

SHIPPED = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path.name != "base.yaml"]
STOP = "trainer: {callbacks: [{class_path: EarlyStopping, init_args: {%s}}]}"
CALLBACK = "trainer: {callbacks: [{class_path: %s}]}"
ADAMW = "model: {prompt: {optimizer: {class_path: torch.optim.AdamW, init_args: {%s}}}}"
FILES = [  # text of own.yaml, the key or place that is named, and what is said of it
    ("model: {num_prompt: 3}", "model.num_prompt;", "model.num_prompts?"),
    ("modell: {num_prompts: 3}", "modell;", "model?"),
    ("keep: 0.1", "keep;", "condense.keep?"),
    ("batch_size: 3", "batch_size;", "data.init_args.batch_size?"),
    ("model: {strange: 3}", "model.strange;", "num_prompts"),
    ("data: {init_args: {batchsize: 3}}", "data.init_args.batchsize;", ".batch_size?"),
    ("data: {class_path: DemoDataModule, batch_size: 3}", "batch_size", "init_args"),
    (STOP % "monitr: x", "trainer.callbacks.init_args.monitr;", ".monitor?"),
    (STOP % "patience: x", "trainer.callbacks.init_args.patience is x", "a whole number"),
    ("trainer: {callbacks: [EarlyStoping]}", "trainer.callbacks", "EarlyStopping?"),
    ("trainer: {callbacks: [{init_args: {a: 1}}]}", "trainer.callbacks.init_args", ""),
    (ADAMW % "momentun: 1", "model.prompt.optimizer.init_args.momentun", "weight_decay"),
    # The list, which might hold tensors too, is right.
    (ADAMW % "betas: [0.9, 0.99]" + "\nkeep: 1", "keep", "condense.keep?"),
    ("model: {prompt: {optimizer: SGDD}}", "model.prompt.optimizer: SGDD", "torch.optim.SGD?"),
    ("model: {prompt: 3}", "model.prompt.optimizer", "required"),
    ("data: {class_path: pcvpt.data.StanfordCar}", "data: ", "pcvpt.data.StanfordCars?"),
    ("data: torch.nn.Linear", "data: torch.nn.Linear", "of another kind"),
    ("data: {class_path: Linear}", "data: Linear", "package.module.Name"),
    (CALLBACK % "nowhere.Mine", "nowhere.Mine", "No module named 'nowhere'; name its folder"),
    (CALLBACK % "commands.Mine", "commands.Mine", "'commands' has no attribute 'Mine'"),
    (CALLBACK % "broken.Mine", "broken.Mine is no class that fits; division by zero", ""),
    ("trainer: {callbacks: {class_path: nowhere.Mine}}", "nowhere.Mine", "named 'nowhere'"),
    ("data: {init_args: 3}", "data is {'init_args': 3}", "ImageDataModule"),
    ("data: pcvpt.data.ImageFolderDataModule", "data.init_args.root", "required"),
    ("model: {num_prompts: many}", "model.num_prompts is many", "a whole number"),
    (
        "model: {mode: deepp}",
        "model.mode is deepp",
        "deep, prefix, shallow or linear; did you mean deep?",
    ),
    ("model: {num_classes: 10}", "model.num_classes", "data"),
    ("model.num_classes: 10", "model.num_classes", "data"),
    ("condense: {keep: [0.3, x]}", "condense.keep is x", "list of numbers or null"),
    ("trainer: {precision: 17}", "trainer.precision is 17", "64, 32, 16"),
    ("trainer: none.yaml", "trainer", "none.yaml"),
    ("trainer:", "trainer is empty", "a mapping"),
    ("condense: [1]", "condense is [1]", "a mapping"),
    ("output_dir: true", "output_dir is true", "text"),
    ("config: 3", "config", "command line"),
    ("on: 3", "True", "string"),
    ("- 1\n- 2", "a configuration", "a mapping"),
    ("model: {a: 3", "line 1, column 13", "'}'"),
    ("model:\n\tmode: deep", "line 2, column 1", "a tab"),
    ("model: {mode: deep}\ncondense: {keep: 1}\nmodel: {}", "line 3", "model is there twice"),
    ("a: {b: 1, b: 2}", "line 1", "b is there twice"),
    ("model.num_prompts: 3\nmodel: {mode: deep}", "line 1", "model.num_prompts"),
    ("model: &a {timm_kwargs: *a}", "line 1", "aliases"),
    ("a: 1\n---\nb: 2", "line 2, column 1", "document"),
    ('a: "\\0"', "line 1", "NUL"),
    (f"model: {'[' * 99}{']' * 99}", "line 1", "30 deep"),
    ("[" * 5000, "own.yaml", "recursion"),
]
OPTIONS = [
    ("--condense.kep=0.3", "--condense.kep;", "--condense.keep?"),
    ("--keep 0.3", "--keep;", "--condense.keep?"),
    ("--data.batchsize=3", "--data.init_args.batchsize;", "--data.init_args.batch_size?"),
    ("--model.num_prompts=many", "--model.num_prompts is many", "a whole number"),
    ("--model.num_classes=10", "--model.num_classes", "data"),
    ("--trainer.callbacks+=EarlyStoping", "--trainer.callbacks", "EarlyStopping?"),
    ("--condense.keep", "--condense.keep", "argument"),
    ("--model 3", "--model", '"3"'),
    ("0.3", "0.3", "unrecognized"),
]
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
def error(work: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """The error of the demo with own.yaml, which holds a text, and options; "" for none."""

    (work / "modules").mkdir()
    (work / "modules" / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(work / "modules")

    def of(text: str, *options: str) -> str:
        Path("own.yaml").write_text(text, encoding="utf-8")
        try:
            parse("fit", expand(["--config", "demo.yaml", "--config=own.yaml", *options])[0])
        except UsageError as found:
            return str(found)
        return ""

    return of


@pytest.mark.parametrize(("text", "key", "hint"), FILES)
def test_a_wrong_file_is_named_with_the_key_and_what_is_right(
    text: str, key: str, hint: str, error: Refusal
) -> None:
    found = error(text)
    assert found.startswith("own.yaml: ")
    assert key in found
    assert hint in found


@pytest.mark.parametrize(("options", "key", "hint"), OPTIONS)
def test_a_wrong_option_is_named_with_what_is_right(
    options: str, key: str, hint: str, error: Refusal
) -> None:
    found = error("{}", *options.split())
    assert found.startswith("the command line: ")
    assert key in found
    assert hint in found


def test_of_several_files_the_wrong_one_is_named(error: Refusal, work: Path) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "base.yaml").write_text("condense: {kep: 0.3}")
    (work / "mine" / "first.yaml").write_text("model: {num_prompts: 5}")
    found = error("data: pcvpt.data.ImageFolderDataModule", "--config=mine/first.yaml")
    assert found.startswith(f"{work / 'mine' / 'base.yaml'}: unknown key condense.kep;")


def test_a_file_in_another_encoding_is_named(error: Refusal, work: Path) -> None:
    (work / "latin.yaml").write_bytes("name: Käfer".encode("latin-1"))
    assert error("{}", "--config=latin.yaml").startswith("latin.yaml: not readable")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Union[int, list[float], null]", "a whole number, a list of numbers or null"),
        ("<class 'str'>, <class 'NoneType'>", "text or null"),
        ("Optional[bool]", "true or false or null"),
        ("Callable[[Iterable], torch.optim.Optimizer]", "a class_path of the kind Optimizer"),
        ("Union[str, Path, timedelta]", "text, a path or a duration such as 00:12:00:00"),
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


def _spoilt(rng: random.Random, text: str) -> str:
    """Return YAML with a place replaced, renamed or nested, and perhaps with wrong characters."""
    tree = yaml.safe_load(text) or {}
    for _ in range(rng.randrange(2)):
        holder, place = rng.choice(_places(tree) or [(tree, "model")])
        value = holder[place] if isinstance(holder, list) else holder.pop(place, None)
        name = f"{place}x" if isinstance(holder, dict) and rng.random() < 0.2 else place
        holder[name] = deepcopy(rng.choice([{"init_args": value}, [value], *STRANGE]))
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    at = rng.randrange(len(text) + 1)
    odd = rng.choice("\t\0{}[]:#&*!|>'\"%@`é\u2028\ufeff-")
    return rng.choice(
        [
            *([text] * 10 + [text[:at], text[:at] + odd + text[at:], text.replace("  ", "\t", 1)]),
            *("a: &a {b: *a}\n" + text, text + "---\nmodel: {}\n", text + "1: 2\nnull: 3\n"),
            *("[" + text.replace("\n", ","), text + "model.num_prompts: 5\n"),
            text.replace(": ", ": !!python/name:os.system ", 1),
            text + (text.splitlines() or [""])[-1].lstrip() + "\n",
        ]
    )


@pytest.mark.parametrize(
    ("seed", "count"), [(3, 12), *(pytest.param(s, 25, marks=pytest.mark.slow) for s in range(12))]
)
def test_a_spoilt_config_is_read_or_refused_in_one_line(
    seed: int, count: int, error: Refusal
) -> None:
    rng = random.Random(seed)
    results = set()
    for _ in range(count):
        text = _spoilt(rng, rng.choice(SHIPPED).read_text(encoding="utf-8"))
        found = error(text)
        results.add(bool(found))
        if found:
            assert "\n" not in found, (found, text)
            assert "own.yaml" in found, (found, text)
            assert len(found) < 600, (found, text)
    assert results == {True, False}
