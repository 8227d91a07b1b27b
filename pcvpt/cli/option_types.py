"""What an option may be: its type in people's words, whether a value fits it, which classes do."""

import collections.abc
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Union

from jsonargparse import ArgumentError, ArgumentParser

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    dict: "a mapping",
    list: "a list",
    Path: "a path",
    timedelta: "a duration such as 00:12:00:00",
}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}
_LISTS = (list, tuple, set, collections.abc.Iterable, collections.abc.Sequence)


def describe(hint: Any) -> str:
    """Return in words what a value of type ``hint`` is, such as "a whole number or null"."""
    words = list(dict.fromkeys(_parts(hint)))
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def choices(hint: Any) -> list[str]:
    """Return the values that ``hint`` names one by one, if it does."""
    return [str(value) for member in _members(hint) for value in _literals(member)]


def accepts(hint: Any, value: Any) -> bool:
    """Say whether ``value``, as YAML holds it, may be given where ``hint`` is expected."""
    return _parses(hint, lambda parser: parser.parse_object({"value": value}))


def accepts_text(hint: Any, text: str) -> bool:
    """Say whether ``text``, as the command line holds it, may be given where ``hint`` is."""
    return _parses(hint, lambda parser: parser.parse_args([f"--value={text}"]))


def classes_in(hint: Any) -> list[type]:
    """Return the classes of which ``hint`` wants an object, or a function that makes one."""
    return [
        kind
        for member in _members(hint)
        for kind in (*_class(member), *_of_callable(member), *_of_list(member))
    ]


def takes_text(hint: Any) -> bool:
    """Say whether text is a value of ``hint``, and so need not name a class."""
    return any(member in (str, Any) or _literals(member) for member in _members(hint))


def find_class(name: str, bases: Iterable[type]) -> type | None:
    """Return the class called ``name``, by its path or alone, that is a kind of one of ``bases``.

    None when there is none, or its module can't be imported.
    """
    bases = tuple(bases)
    if "." in name:
        found = _imported(name)
    else:
        found = next((kind for kind in _kinds(bases) if kind.__name__ == name), None)
    fits = inspect.isclass(found) and issubclass(found, bases)
    return typing.cast(type, found) if fits else None


def is_function(path: str, hint: Any) -> bool:
    """Say whether ``path`` is that of a function, where ``hint`` is content with one."""
    wanted = any(_of_callable(member) for member in _members(hint))
    return wanted and "." in path and callable(_imported(path))


def near_class(name: str, bases: Iterable[type]) -> str | None:
    """Return the path of the kind of one of ``bases`` whose name is nearest to ``name``."""
    known = {kind.__name__: kind for kind in _kinds(tuple(bases))}
    # A name that is right, in a module that is not, comes out first.
    near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    return _shortest_path(known[near[0]]) if near else None


def parser_of(kind: type, skip: int = 0) -> ArgumentParser:
    """Return a parser of what ``kind`` is made with, but for its first ``skip`` arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, skip={skip} if skip else None, fail_untyped=False)
    return parser


def given_by_caller(hint: Any) -> int:
    """Return how many arguments the code gives by itself to what ``hint`` makes."""
    for member in _members(hint):
        if _of_callable(member):
            arguments = typing.get_args(member)[0]
            return len(arguments) if isinstance(arguments, list) else 0
    return 0


def _members(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from _members(member)
    else:
        yield hint


def _parts(hint: Any) -> Iterator[str]:
    members = list(_members(hint))
    if type(None) in members:  # null is said last
        members = [member for member in members if member is not type(None)] + [type(None)]
    for member in members:
        origin, inner = typing.get_origin(member), typing.get_args(member)
        if _literals(member):
            yield from map(str, _literals(member))
        elif origin in _LISTS and inner:
            yield f"a list of {_PLURALS.get(inner[0]) or _plural(member, inner[0])}"
        elif _of_callable(member) or _class(member):
            kind = (*_of_callable(member), *_class(member))[0]
            yield f"a class_path of the kind {kind.__name__}"
        elif member is Any:
            yield "anything"
        else:
            yield _WORDS.get(origin or member) or str(getattr(member, "__name__", member))


def _plural(hint: Any, inner: Any) -> str:
    kinds = " or ".join(kind.__name__ for kind in _of_list(hint))
    return f"class_paths of the kind {kinds}" if kinds else f"what is {describe(inner)}"


def _literals(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _class(hint: Any) -> list[type]:
    known = not inspect.isclass(hint) or hint in _WORDS or typing.get_origin(hint) is not None
    return [] if known or hint.__module__ in ("builtins", "typing") else [hint]


def _of_callable(hint: Any) -> list[type]:
    if typing.get_origin(hint) is not collections.abc.Callable:
        return []
    return [kind for member in _members(typing.get_args(hint)[-1]) for kind in _class(member)]


def _of_list(hint: Any) -> list[type]:
    if typing.get_origin(hint) not in _LISTS or not typing.get_args(hint):
        return []
    return [kind for member in _members(typing.get_args(hint)[0]) for kind in _class(member)]


def _parses(hint: Any, parse: collections.abc.Callable[[ArgumentParser], Any]) -> bool:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parse(parser)
    except (ArgumentError, ValueError, TypeError):
        return False
    return True


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except Exception:  # importing runs code of the user's, which may raise anything
        return None


def _kinds(bases: tuple[type, ...]) -> Iterator[type]:
    """Give all classes that are known so far and derive from ``bases``, without private ones."""
    seen: set[type] = set()
    waiting = list(bases)
    while waiting:
        kind = waiting.pop()
        if kind not in seen:
            seen.add(kind)
            waiting.extend(kind.__subclasses__())
            if not kind.__name__.startswith("_"):
                yield kind


def _shortest_path(kind: type) -> str:
    """Return the path of ``kind`` as its package's users write it."""
    parts = kind.__module__.split(".")
    modules = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    path = (f"{module}.{kind.__name__}" for module in modules)
    return next((p for p in path if _imported(p) is kind), f"{kind.__module__}.{kind.__qualname__}")
