"""The pages that are not in docs/pages. The plug-in mkdocs-gen-files runs this file.

Markdown files of the repository become pages. The tables of keys, the help of the commands and the
list of tasks are generated. A notebook is shown with its outputs if ``make notebooks`` has executed
the same code.
"""

import contextlib
import inspect
import io
import json
import os
import pkgutil
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
import keys
from links import Links

from pcvpt import analysis, data
from pcvpt.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LOG.md": "log.md",
    "docs/cost.md": "cost.md",
    "docs/devices.md": "devices.md",
    "experiments/README.md": "experiments.md",
    "experiments/merging/README.md": "merging_study.md",
    "experiments/real/README.md": "real.md",
    "notebooks/README.md": "notebooks.md",
    "seeds/README.md": "seeds.md",
}
COMMANDS = (
    *("fit", "validate", "test", "predict", "export", "push", "report"),
    *("cost", "analyze", "sweep", "table", "compare"),
    *(f"analyze {name}" for name in ("scores", "layers", "spectrum", "attention")),
    *(f"data {name}" for name in ("list", "get", "verify", "convert", "show")),
)


def pages(root: Path = ROOT) -> tuple[dict[str, str], dict[str, Path]]:
    """Return the text of every page, and the other files of the site, by their places in it."""
    folder = root / "docs" / "pages"
    sources = {root / name: page for name, page in PAGES.items()}
    sources |= {path: path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}
    notebooks = {path: f"notebooks/{path.name}" for path in root.glob("notebooks/*.ipynb")}
    links = Links(root, sources | notebooks)
    text = {page: links.turned(file.read_text("utf-8"), file) for file, page in sources.items()}
    text |= {page: notebook(file, links) for file, page in notebooks.items()}
    with mock.patch.dict(os.environ, {"COLUMNS": "10000"}):  # one line for each option
        text["keys.md"] += keys.tables(command_help("fit", width=10_000))
    text["configs.md"] += links.turned(keys.shipped(), root / "README.md")
    text["api/data.md"] += _tasks()
    for module in pkgutil.iter_modules(analysis.__path__, "pcvpt.analysis."):
        text["api/analysis.md"] += "" if module.ispkg else f"\n::: {module.name}\n"
    for command in COMMANDS:
        text["commands.md"] += f"## pcvpt {command}\n\n```text\n{command_help(command)}\n```\n\n"
    return text, links.files


def command_help(command: str, width: int = 92) -> str:
    """Return what ``pcvpt COMMAND --help`` prints on a terminal of ``width`` characters."""
    printed = io.StringIO()
    terminal = mock.patch.dict(os.environ, {"COLUMNS": str(width), "NO_COLOR": "1"})
    with terminal, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return printed.getvalue().rstrip()


def _tasks() -> str:
    kinds = [getattr(data, name) for name in data.__all__]
    tasks = [k for k in kinds if inspect.isclass(k) and data.BenchmarkDataModule in k.__bases__]
    rows = (f"| `pcvpt.data.{k.__name__}` | {str(k.__doc__).splitlines()[0]} |\n" for k in tasks)
    return "| class | content |\n|---|---|\n" + "".join(rows)


def notebook(file: Path, links: Links) -> str:
    """Return the notebook ``file`` as JSON, with outputs if there are any of the same code."""
    book = json.loads(file.read_text("utf-8"))
    executed = links.root / "build" / "notebooks" / file.name
    if executed.is_file() and _code(copy := json.loads(executed.read_text("utf-8"))) == _code(book):
        book = copy
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":  # mkdocs-jupyter does not turn `.md` into `.html`
            cell["source"] = links.turned("".join(cell["source"]), file, suffix=".html")
    return json.dumps(book)


def _code(book: dict[str, list[dict[str, list[str]]]]) -> list[str]:
    return ["".join(cell["source"]) for cell in book["cells"]]


if __name__ == "<run_path>":
    import mkdocs_gen_files

    made, copied = pages()
    for place, content in made.items():
        with mkdocs_gen_files.open(place, "w") as page:
            page.write(content)
    for place, path in copied.items():
        with mkdocs_gen_files.open(place, "wb") as copy:
            copy.write(path.read_bytes())
