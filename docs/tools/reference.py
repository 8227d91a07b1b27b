"""The API reference: which names it has, and links between them. The text is that of docstrings."""

import importlib
import inspect
import pkgutil
import posixpath
import re
from collections.abc import Iterator

from pcvpt import data

PAGES = {
    "api/pcvpt.md": "pcvpt",
    "api/data.md": "pcvpt.data",
    "api/callbacks.md": "pcvpt.callbacks",
    "api/models.md": "pcvpt.models",
    "api/analysis.md": "pcvpt.analysis",
}
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([\w.]+)(?:\(\))?</code>")


def names(module: str) -> list[str]:
    """Return the whole names that the page of ``module`` documents.

    They are those of its ``__all__``, or else all public ones of its modules; what is offered
    by ``pcvpt`` itself is documented there.
    """
    first = [] if module == "pcvpt" else [_value(name) for name in _offered("pcvpt")]
    return [name for name in _offered(module) if not any(_value(name) is of for of in first)]


def _offered(module: str) -> Iterator[str]:
    package = importlib.import_module(module)
    if hasattr(package, "__all__"):
        for name in package.__all__:
            if not inspect.ismodule(getattr(package, name)):
                yield f"{module}.{name}"
        return
    for found in pkgutil.iter_modules(package.__path__, f"{module}."):
        inner = importlib.import_module(found.name)
        for name, value in vars(inner).items():
            kind = inspect.isclass(value) or inspect.isfunction(value)
            if kind and not name.startswith("_") and value.__module__ == found.name:
                yield f"{found.name}.{name}"


def entries(module: str) -> str:
    """Return what has mkdocstrings put in the docstrings of all that ``module`` offers."""
    chosen = names(module)
    if module != "pcvpt.data":
        return "\n\n".join(_by_module(chosen, module))
    # 24 classes that only name a row of the table.
    tasks = [name for name in chosen if _is_task(name)]
    lines = ["## The 24 tasks", "", "| class | config's `data.class_path` | what it is |"]
    lines.append("|---|---|---|")
    for name in tasks:
        doc = (inspect.getdoc(_value(name)) or "").split("\n")[0]
        lines.append(f"| `{name.rpartition('.')[2]}` | `{name}` | {doc} |")
    rest = "\n\n".join(f"::: {name}" for name in chosen if name not in tasks)
    return f"{rest}\n\n" + "\n".join(lines)


def _by_module(chosen: list[str], module: str) -> Iterator[str]:
    """Give the entries; those of modules inside ``module`` under a heading for each."""
    last = module
    for name in chosen:
        inside = name.rpartition(".")[0]
        if inside != last:
            doc = inspect.getdoc(importlib.import_module(inside)) or ""
            yield f"## {inside}\n\n" + doc.split("\n\n")[0]
            last = inside
        yield f"::: {name}" + "\n    options: {heading_level: 3}" * (inside != module)


def linked(html: str, url: str) -> str:
    """Return the page ``html``, whose address is ``url``, with docstrings' references as links."""
    places = {
        name: page.removesuffix(".md") + ".html"
        for page, module in PAGES.items()
        for name in names(module)
    }

    def link(role: re.Match[str]) -> str:
        name = role[1]
        short = f"<code>{name.rpartition('.')[2]}</code>"
        owner = name if name in places else name.rpartition(".")[0]
        if owner not in places:
            found = [full for full in places if full.endswith(f".{name}")]
            if len(found) != 1:
                return short
            owner = name = found[0]
        where = posixpath.relpath(places[owner], posixpath.dirname(url) or ".")
        return f'<a href="{where}#{owner}">{short}</a>'

    return _ROLE.sub(link, html)


def _value(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _is_task(name: str) -> bool:
    value = _value(name)
    return (
        inspect.isclass(value)
        and issubclass(value, data.BenchmarkDataModule)
        and value is not data.BenchmarkDataModule
    )
