"""What is wrong with the options of a command: in which file, which key, what was meant.

jsonargparse says that something does not fit. Here the files and the command line are gone
through once more, one by one, beside the options that there are.
"""

import difflib
import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, get_loader

from pcvpt.cli.option_sources import NO_OPTIONS, NO_VALUE, Source, Text, name_of_setter, sources_of
from pcvpt.cli.option_types import (
    accepts,
    accepts_text,
    choices,
    classes_in,
    describe,
    find_class,
    given_by_caller,
    is_function,
    near_class,
    parser_of,
    takes_text,
)
from pcvpt.cli.yaml_file import read_mapping
from pcvpt.errors import UsageError

_SPEC = ("class_path", "init_args", "dict_kwargs")
_SUBCOMMAND = r"^(fit|validate|test|predict)\."
_NOISE = (  # of jsonargparse: how it thinks, not what is wrong
    *("Does not validate", "Subtypes:", "Errors:", "Given value", "Subclass types expect"),
    *("a class path (str)", "a dict with", "Expected a <class 'NoneType'>"),
)
_LISTED = 16  # names that a message may hold at most
_WIDEST = 60  # characters of a value that a message shows at most


def parse(parser: ArgumentParser, options: ArgumentParser, arguments: Sequence[str]) -> Any:
    """Parse ``arguments`` by ``parser``.

    Args:
        parser: of the command.
        options: of its subcommand, or ``parser`` itself where it has none.
        arguments: each ``--config`` followed by the path of a file.

    Raises:
        UsageError: naming the file (or the command line), the key, what it may be, and the nearest
            right one.
    """
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise UsageError(explain(str(error), options, arguments)) from error


def explain(error: str, options: ArgumentParser, arguments: Sequence[str]) -> str:
    """Return what is wrong with ``arguments``; the ``error``, in short, where nothing is found."""
    sources = sources_of(arguments)
    classes: dict[str, type] = {}
    for source in sources:
        problem = next(_Check(source, _leaves(options), classes).problems(), None)
        if problem is not None:
            return f"{source.name}: {problem}"
    return in_short(error, sources)


class _Check:
    """Compares what a source holds with what there is.

    Args:
        source: to be checked.
        leaves: type of each option by its name with dots.
        classes: those that the sources before have named, by the option; those of this one are
            put in.
    """

    def __init__(self, source: Source, leaves: Mapping[str, Any], classes: dict[str, type]) -> None:
        self.source, self.leaves, self.classes = source, leaves, classes

    def problems(self) -> Iterator[str]:
        return self._mapping(self.source.content, self.leaves, "", "")

    def _mapping(
        self, content: Mapping[Any, Any], leaves: Mapping[str, Any], inside: str, at: str
    ) -> Iterator[str]:
        """Check the keys of ``content``; ``at`` is where it stands, ``inside`` the same less the
        part above ``leaves``.
        """
        for key, value in content.items():
            if not isinstance(key, str):
                inside_of = f" in {at[:-1]}" if at else ""
                yield f"the key {_shown(key)}{inside_of} is not text; put it in quotes"
                continue
            first, _, rest = key.partition(".")
            value = {rest: value} if rest else value
            name, path = inside + first, at + first
            if name in leaves:
                yield from self._value(leaves[name], value, path)
            elif any(leaf.startswith(f"{name}.") for leaf in leaves):
                if file := self._file(value):  # read in its place
                    value = read_mapping(file)
                if isinstance(value, Mapping):
                    yield from self._mapping(value, leaves, f"{name}.", f"{path}.")
                else:
                    yield self._wrong(path, value, "a mapping of its options")
            elif value != {} and not self._is_short(name):  # empty ones are passed over
                yield self._unknown(path, leaves, inside, at)

    def _value(self, hint: Any, value: Any, path: str) -> Iterator[str]:
        if value is NO_VALUE:
            if hint is not Any:  # which is a switch
                yield f"{self.source.shown(path)} needs a value: {describe(hint)}"
            return
        kinds = classes_in(hint)
        if kinds and isinstance(value, Text) and value.startswith(("{", "[")):
            value = _loaded(value)
        if kinds and isinstance(value, list) and not self._is_plain(hint, value):
            for number, item in enumerate(value):
                self.classes.pop(f"{path}[{number}]", None)  # a list replaces that of before
                yield from self._object(hint, kinds, item, f"{path}[{number}]")
        elif kinds and isinstance(value, (Mapping, str)):
            yield from self._object(hint, kinds, value, path)
        elif not self._fits(hint, value):
            yield self._wrong(path, value, describe(hint), choices(hint))

    def _object(self, hint: Any, kinds: list[type], value: Any, path: str) -> Iterator[str]:
        """Check the class that ``value`` names, and what it gives to it."""
        if isinstance(value, str):
            kind = find_class(value, kinds)
            if kind is not None:
                self.classes[path] = kind
            elif not (takes_text(hint) or is_function(value, hint) or self._file(value)):
                yield self._no_class(path, value, kinds)
            return
        if not isinstance(value, Mapping):
            yield self._wrong(path, value, describe(kinds[0]))
            return
        value = _nested(value)
        if "class_path" in value:
            name = value["class_path"]
            kind = find_class(name, kinds) if isinstance(name, str) else None
            if kind is None:
                yield self._no_class(f"{path}.class_path", name, kinds)
                return
            self.classes[path] = kind
        if path not in self.classes:
            yield f"{self.source.shown(path)} lacks a class_path, of the kind {kinds[0].__name__}"
            return
        leaves = _leaves(parser_of(self.classes[path], given_by_caller(hint)))
        if not value.keys() & set(_SPEC):  # arguments alone
            yield from self._mapping(value, leaves, "", f"{path}.")
            return
        for key in value:
            if key not in _SPEC:
                yield self._unknown(f"{path}.{key}", dict.fromkeys(_SPEC), "", f"{path}.")
        given = value.get("init_args", {})
        if isinstance(given, Mapping):
            yield from self._mapping(given, leaves, "", f"{path}.init_args.")
        else:
            yield self._wrong(f"{path}.init_args", given, "a mapping")

    def _fits(self, hint: Any, value: Any) -> bool:
        if hint is Any:
            return True
        return accepts_text(hint, value) if isinstance(value, Text) else accepts(hint, value)

    def _is_plain(self, hint: Any, value: list[Any]) -> bool:
        """Say whether ``value`` fits without naming a class, as numbers do where tensors may be."""
        return not any(isinstance(item, Mapping) for item in value) and self._fits(hint, value)

    def _file(self, value: Any) -> Path | None:
        """Return the file that ``value`` names, if it does."""
        if not isinstance(value, str):
            return None
        file = (self.source.file.parent if self.source.file else Path()) / value
        try:
            return file if file.is_file() else None
        except (OSError, ValueError):  # too long for a name, or no name at all
            return None

    def _is_short(self, name: str) -> bool:
        """Say whether ``name`` is the beginning of one option, which the command line takes."""
        found = [leaf for leaf in self.leaves if leaf.startswith(name)]
        return self.source.file is None and len(found) == 1

    def _wrong(self, path: str, value: Any, expected: str, known: Sequence[str] = ()) -> str:
        shown = self.source.shown(path)
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{shown} is {_shown(value)}, but must be {expected}{hint}"

    def _no_class(self, path: str, name: Any, kinds: list[type]) -> str:
        near = near_class(name, kinds) if isinstance(name, str) else None
        hint = f"; did you mean {near}?" if near else "; give its whole path, package.module.Name"
        kind = kinds[0].__name__
        return f"{self.source.shown(path)}: {_shown(name)} is no class of the kind {kind}{hint}"

    def _unknown(self, path: str, leaves: Mapping[str, Any], inside: str, at: str) -> str:
        """Complain about the key ``path``, which is none of ``leaves`` below ``inside``."""
        name = path[len(at) :]
        beside = {leaf[len(inside) :].split(".")[0] for leaf in leaves if leaf.startswith(inside)}
        near = [at + other for other in difflib.get_close_matches(name, beside, n=1)]
        if not near:
            elsewhere = dict(self._elsewhere())
            close = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.8)
            near = [elsewhere[other] for other in close]
        what = "key" if self.source.file else "option"
        said = f"unknown {what} {self.source.shown(path)}"
        if near:
            return f"{said}; did you mean {self.source.shown(near[0])}?"
        if len(beside) <= _LISTED:
            return f"{said}; there are {', '.join(sorted(beside))}"
        return f"{said}; `pcvpt fit --help` lists all"

    def _elsewhere(self) -> Iterator[tuple[str, str]]:
        """Give the last part of the name of each option, and the whole."""
        for path, kind in self.classes.items():
            for leaf in _leaves(parser_of(kind)):
                yield leaf, f"{path}.init_args.{leaf}"
        for leaf in reversed(list(self.leaves)):
            yield leaf.rpartition(".")[2], leaf


def _leaves(parser: ArgumentParser) -> dict[str, Any]:
    """Return the type of each option of ``parser`` by its name; Any where it has none."""
    return {
        action.dest: getattr(action, "_typehint", None) or Any
        for action in parser._actions
        if action.dest.split(".")[-1] not in NO_OPTIONS and not _is_section(parser, action.dest)
    }


def _is_section(parser: ArgumentParser, name: str) -> bool:
    return any(action.dest.startswith(f"{name}.") for action in parser._actions) and all(
        getattr(action, "_typehint", None) is None
        for action in parser._actions
        if action.dest == name
    )


def _nested(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return ``mapping`` with its keys of the form "init_args.name" as mappings."""
    nested: dict[Any, Any] = {}
    for key, value in mapping.items():
        first, _, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        if rest and isinstance(nested.setdefault(first, {}), dict):
            nested[first] = {**nested[first], rest: value}
        else:
            nested[key] = value
    return nested


def _loaded(text: str) -> Any:
    try:
        return get_loader("yaml")(text)
    except yaml.YAMLError:
        return text


def _shown(value: Any) -> str:
    plain = {True: "true", False: "false", None: "null"}
    text = plain[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def in_short(error: str, sources: Sequence[Source] = ()) -> str:
    """Return jsonargparse's ``error`` on one line, and the source of the key that it names."""
    if error.startswith("unrecognized arguments"):
        return f"the command line: {error}; an option begins with --"
    key = re.search(r'Parser key "([^"]+)"', error)
    kind = re.search(r"class_path[ =]'([^']+)'", error)
    missing = re.search(r"arguments are required: (.+)", error)
    if missing:
        names = [re.sub(_SUBCOMMAND, "", name.strip()) for name in missing[1].split(",")]
        if key and kind:
            given = f"{kind[1]} needs {', '.join(names)}; give it in {key[1]}.init_args"
            return name_of_setter(key[1], sources) + given
        said = f"{', '.join(names)} is not given; add it to a config, or give --{names[0]}"
        return name_of_setter(names[0], sources) + said
    if "Could not determine home directory" in error:
        said = "a path begins with ~ and a name that no user here has; write it in full"
    else:
        lines = [" ".join(line.strip(" -").split()) for line in error.splitlines()]
        said = "; ".join(line for line in lines if line and not line.startswith(_NOISE))
    if key:
        return name_of_setter(key[1], sources) + said
    return f"{kind[1]}: {said}" if kind else said
