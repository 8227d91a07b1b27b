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

from .conftest import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def _sources(path: Path, kind: str) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == kind]


@EACH
def test_a_notebook_holds_no_outputs_and_names_no_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert re.findall(r"""(?:^|[\s"'`(=])(?:/[\w.-]+/|~/|[A-Z]:\\)\S*""", cell.source) == []
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


@EACH
def test_prose_comes_first_and_says_what_small_settings_are(path: Path) -> None:
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {int(path.stem[:2])}. ")
    assert "PCVPT_SMALL" in first.source
    code = _sources(path, "code")[0]
    assert 'SMALL = bool(os.environ.get("PCVPT_SMALL"))' in code.splitlines()


@EACH
def test_the_readme_lists_it_and_its_links_lead_somewhere(path: Path) -> None:
    assert f"[{path.stem}]({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", "\n".join(_sources(path, "markdown")))
    assert [link for link in links if "://" not in link and not (FOLDER / link).exists()] == []


@EACH
def test_what_it_imports_exists(path: Path) -> None:
    cells = [source for source in _sources(path, "code") if not source.startswith("%%")]
    lines = [line for source in cells for line in source.splitlines() if not line.startswith("%")]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            package = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                pkgutil.resolve_name(package + alias.name)


def test_the_runner_executes_on_small_settings_and_reports_a_cell_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "run", raising=False)
    for name in ("PCVPT_SMALL", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # restored afterwards
    runner: Any = importlib.import_module("run")
    monkeypatch.setattr(runner, "HERE", tmp_path)
    cells = {
        "good": "import os\nprint(os.environ['PCVPT_SMALL'], os.listdir('.'))",
        "bad": "print('so far')\n1 / 0",
    }
    for name, source in cells.items():
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), tmp_path / f"{name}.ipynb")
    output = tmp_path / "executed"
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(output)])
    assert runner.main() == 1
    good, bad = (nbformat.read(output / f"{n}.ipynb", as_version=4).cells[0].outputs for n in cells)
    assert good[0].text == "1 []\n"
    assert [part.output_type for part in bad] == ["stream", "error"]
    said = capsys.readouterr()
    assert "1 of 2" in said.out
    assert "bad.ipynb" in said.err
    assert "ZeroDivisionError" in said.err
