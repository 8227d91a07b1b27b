"""The notebooks as they are stored: without outputs, the same for everybody, listed."""

import ast
import importlib
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_of(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == "code"]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@EACH
def test_outputs_and_execution_counts_are_stripped(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in cells] == [[]] * len(cells)
    assert {cell.execution_count for cell in cells} == {None}


@EACH
def test_metadata_name_no_machine(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(cell.metadata == {} for cell in notebook.cells)


@EACH
def test_no_path_is_absolute(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells)
    assert re.findall(r"""(?:^|[\s"'`(=])(?:/[\w.-]+/|~/|[A-Z]:\\)\S*""", text) == []


@EACH
def test_prose_comes_first_and_says_what_small_settings_are(path: Path) -> None:
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith(f"# {int(path.stem[:2])}. ")
    assert "PCVPT_SMALL" in cells[0].source
    assert 'SMALL = bool(os.environ.get("PCVPT_SMALL"))' in code_of(path)[0].splitlines()


@EACH
def test_the_readme_lists_it(path: Path) -> None:
    assert f"[{path.stem}]({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


@EACH
def test_links_lead_somewhere(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    targets = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [target for target in targets if not (FOLDER / target).exists()] == []


@EACH
def test_what_it_imports_is_there(path: Path) -> None:
    cells = [source for source in code_of(path) if not source.startswith("%%")]
    lines = [line for source in cells for line in source.splitlines() if not line.startswith("%")]
    nodes = list(ast.walk(ast.parse("\n".join(lines))))
    names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    names += [
        f"{node.module}.{a.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for a in node.names
    ]
    assert names
    for name in names:
        pkgutil.resolve_name(name)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Import run.py, which finds its notebooks in ``tmp_path``."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "run", raising=False)
    for name in ("PCVPT_SMALL", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # to be put back
    module = importlib.import_module("run")
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def test_the_runner_executes_on_small_settings_and_reports_a_cell_that_fails(
    runner: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = {
        "good": "import os\nprint(os.environ['PCVPT_SMALL'], os.listdir('.'))",
        "bad": "print('so far')\n1 / 0",
    }
    for name, source in cells.items():
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), tmp_path / f"{name}.ipynb")
    output = tmp_path / "executed"
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(output)])
    assert runner.main() == 1
    good, bad = (read(output / f"{name}.ipynb").cells[0].outputs for name in cells)
    assert good[0].text == "1 []\n"
    assert [part.output_type for part in bad] == ["stream", "error"]
    said = capsys.readouterr()
    assert "1 of 2" in said.out
    assert "bad.ipynb" in said.err
    assert "ZeroDivisionError" in said.err
