"""The pages and README: links, commands, options and names that they mention exist."""

import importlib
import inspect
import json
import pkgutil
import re
import runpy
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from pcvpt.cli.config_files import CONFIGS
from pcvpt.cli.main import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
PROGRAM = re.compile(r"(?<![\w./`])(pcvpt|make|python)(?= [\w-])(?!.*\bimport\b)")
WRITTEN = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md")} - {ROOT / "LOG.md"})


def tool(name: str) -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "tools" / f"{name}.py"), run_name=name)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return dict(tool("generate")["pages"]()[0])


@pytest.fixture(scope="module")
def keys(pages: dict[str, str]) -> dict[str, list[str]]:
    lines = re.findall(r"^\| `([\w.]+)` \|(.*)\|$", pages["keys.md"], re.M)
    return {key: [cell.strip() for cell in cells.split(" | ")] for key, cells in lines}


@pytest.fixture(scope="module")
def options(keys: dict[str, list[str]]) -> set[str]:
    return {*keys, *(f"data.{key}" for key in keys), "config", "print_config", "help"}


def test_the_navigation_has_each_page_once(pages: dict[str, str]) -> None:
    nav = (DOCS / "mkdocs.yml").read_text("utf-8").split("\nnav:")[1].split("\ntheme:")[0]
    assert sorted(re.findall(r"[\w/]+\.(?:md|ipynb)", nav)) == sorted(pages)


def test_each_command_on_a_page_is_one(pages: dict[str, str], options: set[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    configs = {path.name for path in CONFIGS.rglob("*.yaml")} | {"my.yaml", "a.yaml", "b.yaml"}
    blocks = (BLOCK.findall(text) for text in pages.values())
    shells = "\n".join(text for page in blocks for kind, text in page if kind in ("", "sh"))
    lines = shells.replace("\\\n", " ").split("\n")
    commands = [line[start.start() :] for line in lines if (start := PROGRAM.search(line))]
    assert len(commands) > 20
    for shown in commands:
        program, *words = shlex.split(shown, comments=True)
        if program == "make" and words:
            assert words[0] in targets, shown
        elif program == "python" and words[0].endswith(".py"):
            assert (ROOT / words[0]).is_file(), shown
        elif program == "pcvpt" and words[0] in ("fit", "validate", "test", "predict"):
            assert {w[2:].split("=")[0] for w in words if w.startswith("--")} <= options, shown
            assert {b for a, b in pairwise(words) if a == "--config"} <= configs, shown
        elif program == "pcvpt":
            inner = words[1:2] if words[0] in ("data", "analyze") else []
            with pytest.raises(SystemExit) as end:
                main([words[0], *inner, "--help"])
            assert not end.value.code, shown


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_is_short_and_what_it_mentions_exists(path: Path, options: set[str]) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= {"README.md": 150, "cost.md": 250}.get(path.name, 200)
    folders = "pcvpt|tests|benchmarks|experiments|configs|seeds|notebooks|docs"
    for file in re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]*[\w/])(?![\w*{{<])", text):
        assert (ROOT / file).exists(), file
    for name in re.findall(r"(?<![\w./-])(pcvpt(?:\.[A-Za-z_]\w*)+)(?!\w|/)", text):
        if not name.endswith((".md", ".yaml", ".py")):
            pkgutil.resolve_name(name)
    for option in re.findall(r"`--((?:\w+\.)+\w+)", text):
        assert option in options, option


def test_the_python_in_the_readme_runs() -> None:
    names = {"batches": [(torch.rand(4, 3, 32, 32), torch.arange(4))]}
    exec(dict(BLOCK.findall((ROOT / "README.md").read_text("utf-8")))["python"], names)
    assert sum(names["model"].prompts.counts()) == 36


def test_each_key_has_type_default_and_meaning(keys: dict[str, list[str]]) -> None:
    assert len(keys) > 60
    assert {key: cells for key, cells in keys.items() if not (cells[0] and cells[-1])} == {}
    assert keys["model.prompt_dropout"][:2] == ["a number", "0.1"]  # the default of the class is 0
    assert keys["model.finetune.warmup_epochs"][:2] == ["a number", "2"]
    assert keys["model.gradient_checkpointing"][:2] == ["true or false", "false"]
    assert keys["batch_size"][:2] == ["a whole number", "64"]


def test_each_shipped_config_is_listed_with_its_content(pages: dict[str, str]) -> None:
    rows = re.findall(r"^\| \[(\w+\.yaml)\]\([^)]+\) \| (.+) \|$", pages["configs.md"], re.M)
    assert sorted(name for name, _ in rows) == sorted(p.name for p in CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("room", ["", ".adapters", ".callbacks", ".data", ".models"])
def test_each_public_name_is_documented(pages: dict[str, str], room: str) -> None:
    api = "".join(text for page, text in pages.items() if page.startswith("api/"))
    package = importlib.import_module(f"pcvpt{room}")
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
            assert re.search(rf"[:`] ?pcvpt\.(\w+\.)?{name}\b", api), name


def test_a_reference_in_a_docstring_becomes_a_link() -> None:
    html = tool("hooks")["on_page_content"]("see :func:<code>pcvpt.create_model</code>")
    assert re.search(r'identifier="pcvpt\.create_model".*<code>create_model</code>', html)


def test_links_lead_to_pages_and_to_copies_of_files(tmp_path: Path) -> None:
    for name in ("README.md", "docs/x.md", "configs/base.yaml", "docs/a.svg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    page = tmp_path / "docs" / "x.md"
    links = tool("links")["Links"](tmp_path, {tmp_path / "README.md": "index.md", page: "use/x.md"})
    for target, turned in {
        **{"../README.md#part": "../index.md#part", "..": "../index.md", "#own": "#own"},
        **{"https://arxiv.org": "https://arxiv.org", "a.svg": "../repository/docs/a.svg"},
        "../configs/base.yaml": "../repository/configs/base.yaml.txt",
    }.items():
        assert links.turned(f"[a]({target})", page) == f"[a]({turned})"
    assert sorted(links.files) == ["repository/configs/base.yaml.txt", "repository/docs/a.svg"]
    assert links.turned("```\n[a](gone.md)\n```", page) == "```\n[a](gone.md)\n```"
    with pytest.raises(ValueError, match=r"x\.md.*gone\.md"):
        links.turned("[a](gone.md)", page)


def test_a_notebook_has_outputs_only_of_the_same_code(tmp_path: Path) -> None:
    file, executed = tmp_path / "a.ipynb", tmp_path / "build" / "notebooks" / "a.ipynb"
    links = tool("links")["Links"](tmp_path, {file: "a.ipynb"})
    executed.parent.mkdir(parents=True)
    for code, outputs in (("1", "some"), ("2", "none")):
        for path, source, found in ((file, "1", "none"), (executed, code, "some")):
            cell = {"cell_type": "code", "source": [source], "outputs": found}
            path.write_text(json.dumps({"cells": [cell]}))
        assert (
            json.loads(tool("generate")["notebook"](file, links))["cells"][0]["outputs"] == outputs
        )


def test_the_captions_of_the_method_s_figures_are_what_was_measured() -> None:
    demo = json.loads((DOCS / "figures" / "demo.json").read_text())
    text = (DOCS / "pages" / "method.md").read_text("utf-8")
    *kept, last = (sum(block) for block in demo["keep"])
    assert f"{', '.join(map(str, kept))} and {last}]" in text
    for stage in ("masked", "finetuned"):
        found = sorted(row[f"accuracy_{stage}"] for row in demo["budgets"])
        assert re.search(rf"{found[0]:.0f} (to|and) {found[-1]:.0f} %", text)
    assert shlex.join(demo["command"]) in text


def test_dev_has_what_builds_the_pages() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    parts = [text.split(f"\n{extra} = [")[1].split("\n]")[0] for extra in ("dev", "docs")]
    dev, docs = (set(re.findall(r'"([\w-]+)>=', part)) for part in parts)
    assert docs <= dev


@pytest.mark.slow
def test_the_pages_build_strictly_and_need_no_network(tmp_path: Path) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(DOCS / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    for page in (page for page in tmp_path.rglob("*.html") if page.name != "404.html"):
        for tag, to in re.findall(r"<(\w+)[^>]*?\s(?:href|src)=\"?([^\s\">#?]+)", page.read_text()):
            away, inner = (re.match(kind, to) for kind in (r"(https?:)?//", r"(data|javascript):"))
            assert inner or (tag == "a" if away else (page.parent / to).exists()), (page.name, to)
