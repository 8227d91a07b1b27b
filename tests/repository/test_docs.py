"""The pages: all that they ask for is there, and the commands that they show are commands."""

import importlib
import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pcvpt.cli.config_files import CONFIGS
from pcvpt.cli.main import Command, main

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OWN = ("my.yaml", "birds.yaml", "a.yaml", "b.yaml")  # configs that the pages have the reader write
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"(?<![\w./`])(pcvpt|make|python)(?= [\w-])(?!.*\bimport\b)")

Tool = Callable[[str], Any]


@pytest.fixture(scope="module")
def tool() -> Iterator[Tool]:
    """Import a module as the pages' build does: from its own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / "tools"))

        def by_name(name: str) -> ModuleType:
            return importlib.import_module(name)

        yield by_name


@pytest.fixture(scope="module")
def site(tool: Tool) -> Any:
    return tool("assemble").assemble()


@pytest.fixture(scope="module")
def tables(tool: Tool) -> str:
    return str(tool("keys").tables())


@pytest.fixture(scope="module")
def options(tables: str) -> set[str]:
    """Names of all options that `pcvpt fit` takes."""
    names = set(re.findall(r"^ *\| `([\w.]+)` \|", tables, re.MULTILINE))
    of_data = {f"data.{name.split('.')[-1]}" for name in names if name.startswith("data.init_args")}
    return names | of_data | {"config", "print_config", "data.class_path"}


def _nav(entries: Any) -> Iterator[str]:
    for entry in entries:
        values = entry.values() if isinstance(entry, dict) else [entry]
        for value in values:
            if isinstance(value, str):
                yield value
            else:
                yield from _nav(value)


def _commands(site: Any) -> list[tuple[str, list[str]]]:
    """Return the commands in code blocks, with the page; lines that go on are joined."""
    found = []
    for page, text in site.pages.items():
        for language, block in _BLOCK.findall(text):
            if language not in ("", "sh", "bash") or page.startswith("notebooks/"):
                continue
            for line in block.replace("\\\n", " ").split("\n"):
                if start := _PROGRAM.search(line):
                    found.append((page, shlex.split(line[start.start() :], comments=True)))
    return found


def test_the_navigation_has_each_page_once(site: Any) -> None:
    config = yaml.safe_load((DOCS / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(_nav(config["nav"]))
    assert sorted(listed) == sorted(p for p in site.pages if not p.startswith("notebooks/"))


def test_each_command_on_a_page_is_one(
    site: Any, options: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shipped = {path.name for path in CONFIGS.rglob("*.yaml")}
    commands = _commands(site)
    assert len(commands) > 20
    for page, (program, *words) in commands:
        shown = f"{page}: {program} {' '.join(words)}"
        if program == "make" and words:
            assert words[0] in targets, shown
        elif program == "python" and words[0].endswith(".py"):
            assert (ROOT / words[0]).is_file(), shown
        elif program == "pcvpt" and words[0] in Command.subcommands():
            names = [word[2:].split("=")[0] for word in words if word.startswith("--")]
            assert set(names) <= options, shown
            configs = {b for a, b in pairwise(words) if a == "--config"}
            assert {Path(name).name for name in configs} <= shipped | set(OWN), shown
        elif program == "pcvpt":
            inner = words[1:2] if words[0] in ("data", "analyze") else []
            with pytest.raises(SystemExit) as end:
                main([words[0], *inner, "--help"])
            assert not end.value.code, f"{shown}: {capsys.readouterr().err}"


def test_each_option_in_the_text_is_one(options: set[str]) -> None:
    for path in (*(DOCS / "pages").glob("*.md"), ROOT / "README.md"):
        for name in re.findall(r"`--((?:\w+\.)+\w+)", path.read_text(encoding="utf-8")):
            assert name in options, f"{path.name}: --{name}"


def test_each_key_has_a_meaning(tables: str) -> None:
    rows = [line.split(" | ") for line in tables.split("\n") if line.startswith("| `")]
    assert len(rows) > 60
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []


def test_base_yaml_s_values_are_the_defaults_of_the_table(tables: str) -> None:
    assert "| `model.prompt_dropout` | a number | 0.1 |" in tables  # the class has 0
    assert "| `model.finetune.warmup_epochs` | a number | 2 |" in tables
    assert "| `model.gradient_checkpointing` | true or false | false |" in tables


def test_the_callbacks_to_copy_are_base_yaml_s(tool: Tool) -> None:
    text = tool("keys").callbacks_with("PhaseCheckpoint", every_n_steps=500)
    shown = yaml.safe_load(text.removeprefix("```yaml").removesuffix("```"))["trainer"]["callbacks"]
    base = yaml.safe_load((CONFIGS / "base.yaml").read_text())["trainer"]["callbacks"]
    assert [c["class_path"] for c in shown] == [c["class_path"] for c in base]
    (changed,) = [c for c in shown if c not in base]
    assert changed["class_path"] == "pcvpt.callbacks.PhaseCheckpoint"
    assert changed["init_args"]["every_n_steps"] == 500


def test_the_help_that_a_page_shows_is_that_of_the_command(tool: Tool) -> None:
    text = tool("command_help").shown("data", "get")
    assert text.startswith('??? info "pcvpt data get --help"')
    assert "    usage: pcvpt data get" in text
    with pytest.raises(RuntimeError, match="`pcvpt data gte --help` ends with 2"):
        tool("command_help").shown("data", "gte")


def test_each_shipped_config_is_listed_with_what_it_is(tool: Tool) -> None:
    lines = tool("keys").shipped().split("\n")[2:]
    assert len(lines) == len(list(CONFIGS.rglob("*.yaml")))
    assert [line for line in lines if line.endswith("|  |")] == []


def test_each_public_name_has_a_docstring(tool: Tool) -> None:
    reference = tool("reference")
    for module in reference.PAGES.values():
        names = reference.names(module)
        assert names
        for name in names:
            value = reference._value(name)
            documented = inspect.getdoc(value) if callable(value) else "a constant"
            assert documented, name


def test_references_in_docstrings_become_links(tool: Tool) -> None:
    linked = tool("reference").linked
    html = "see :func:<code>pcvpt.create_model</code>, :meth:<code>Missing.this</code>"
    assert linked(html, "api/data.html") == (
        'see <a href="pcvpt.html#pcvpt.create_model"><code>create_model</code></a>, '
        "<code>this</code>"
    )


def test_a_section_ends_at_the_next_of_its_level(tool: Tool) -> None:
    sections = tool("sections")
    text = "# T\n\nintro\n\n## A\n\none\n\n```\n## no heading\n```\n\n### inner\n\n## B\n\ntwo\n"
    assert sections.section(text, "A", "f") == (
        "one\n\n```\n## no heading\n```\n\n### inner",
        2,
    )
    assert sections.section(text, "B", "f") == ("two", 2)
    assert sections.section(text, "", "f") == ("intro", 1)
    with pytest.raises(sections.PageError, match=r"README\.md has no heading 'C'"):
        sections.section(text, "C", "README.md")


def test_a_section_s_headings_go_below_the_one_that_it_stands_under(tool: Tool) -> None:
    deepened = tool("sections").deepened
    text = "**Layouts.** The first.\n\n- **Not this.** It\n\n### inner\n\n*Scoring*\n\nend"
    assert deepened(text, 2, 3) == (
        "#### Layouts\n\nThe first.\n\n- **Not this.** It\n\n#### inner\n\n#### Scoring\n\nend"
    )


def test_links_lead_to_pages_sections_and_copies(tool: Tool, tmp_path: Path) -> None:
    Links, PageError = tool("links").Links, tool("sections").PageError
    for name in ("README.md", "docs/x.md", "configs/base.yaml", "docs/images/a.svg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "x.md"
    links = Links(
        tmp_path, {readme: "index.md", page: "use/x.md"}, {(readme, "data"): ("data.md", "here")}
    )

    def turned(target: str) -> str:
        return str(links.turned(f"[a]({target})", page, "use/x.md"))[4:-1]

    assert turned("../README.md") == "../index.md"
    assert turned("../README.md#data") == "../data.md#here"
    assert turned("../README.md#other") == "../index.md#other"
    assert turned("#own") == "#own"
    assert turned("https://arxiv.org") == "https://arxiv.org"
    assert turned("../configs/base.yaml") == "../repository/configs/base.yaml.txt"
    assert turned("images/a.svg") == "../repository/docs/images/a.svg"
    assert sorted(links.files) == [
        "repository/configs/base.yaml.txt",
        "repository/docs/images/a.svg",
    ]
    assert links.turned("```\n[a](gone.md)\n```", page, "use/x.md").startswith("```\n[a](gone.md)")
    with pytest.raises(PageError, match=r"docs/x\.md: the link gone\.md leads to nothing"):
        turned("gone.md")


def _notebook(folder: Path, source: str, outputs: list[dict[str, Any]]) -> None:
    cell = {"cell_type": "code", "source": source, "metadata": {}, "outputs": outputs}
    title = {"cell_type": "markdown", "source": "# First", "metadata": {}}
    cells = [title, {**cell, "execution_count": None}]
    folder.mkdir(parents=True, exist_ok=True)
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (folder / "01_first.ipynb").write_text(json.dumps(content))


def test_a_notebook_is_shown_as_executed_only_if_it_was_since_it_changed(
    tool: Tool, tmp_path: Path
) -> None:
    pages = tool("notebook_pages")
    said = {"output_type": "stream", "name": "stdout", "text": "\x1b[31mforty-two\x1b[0m"}
    drawn = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0KGgo="}}
    _notebook(tmp_path / "notebooks", "print(42)", [])
    (plain,) = pages.notebooks(tmp_path)
    assert (plain.page, plain.title, plain.executed) == ("notebooks/01_first.md", "First", False)
    _notebook(tmp_path / "build" / "notebooks", "print(42)", [said, drawn])
    (executed,) = pages.notebooks(tmp_path)
    assert executed.executed
    assert "forty-two" in executed.markdown
    assert "\x1b" not in executed.markdown
    (image,) = executed.images
    assert image.startswith("notebooks/01_first/")
    assert image.removeprefix("notebooks/") in executed.markdown
    _notebook(tmp_path / "notebooks", "print(43)", [])
    (changed,) = pages.notebooks(tmp_path)
    assert not changed.executed
    assert "43" in changed.markdown


def test_the_method_s_captions_say_what_was_measured() -> None:
    demo = json.loads((DOCS / "figures" / "demo.json").read_text())
    text = (DOCS / "pages" / "method.md").read_text(encoding="utf-8")
    rows = demo["budgets"]
    kept = next(row["kept"] for row in rows if row["keep"] == 0.3)
    assert kept == [sum(layer) for layer in demo["keep"]]
    assert f"keeps: {', '.join(map(str, kept[:-1]))} and {kept[-1]}]" in text
    masked = [f"{row['accuracy_masked']:.0f}" for row in rows]
    tuned = [f"{row['accuracy_finetuned']:.0f}" for row in rows]
    assert f"rises from {min(masked)} to {max(masked)} %" in text
    assert f"between {min(tuned)} and {max(tuned)} %" in text
    assert f"with all prompts at {demo['accuracy_before']:.0f} %" in text
    assert shlex.join(demo["command"]) in text
    assert f"{demo['val_images']} validation images" in text


def test_dev_has_what_builds_the_pages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras["docs"]) <= set(extras["dev"])


@pytest.mark.slow
def test_the_pages_build_strictly_and_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    config = load_config(str(DOCS / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        html = page.read_text(encoding="utf-8")
        for tag, target in re.findall(r"<(\w+)[^>]*?\s(?:href|src)=\"?([^\s\">]+)", html):
            if re.match(r"(https?:)?//", target):
                assert tag == "a", f"{page.name} needs {target}"
            elif not target.startswith(("#", "data:", "mailto:", "javascript:")):
                file = (page.parent / target.split("#")[0].split("?")[0]).resolve()
                assert file.exists() or page.name == "404.html", f"{page.name}: {target}"
