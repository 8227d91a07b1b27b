"""Errors of a configuration: in which file, which key, its value, and the nearest right one.

jsonargparse says what does not fit. Which file it is in comes out when the files are parsed again,
one more at a time, and the key's value is read from that file.
"""

import difflib
import re
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from pcvpt.cli.parser import build_parser
from pcvpt.cli.yaml_file import read_mapping
from pcvpt.errors import UsageError

_KEY = re.compile(r'Parser key "([^"]+)"')
_UNKNOWN = re.compile(r"(?:Group '(\S+)' does not accept o|O)ption '([^']+)'")
_CLASS = re.compile(r"Problem with given class_path '([^']*)'")
_NO_CLASS = re.compile(  # what jsonargparse says of a class that does not exist or does not fit
    r"module '\S+' has no attribute|No module named|Expected a dot import path|"
    "not correspond to a subclass"
)
_REQUIRED = re.compile(r"arguments are required: (.+)")
_EXPECTED = re.compile(
    r"Subtypes: \[(.+)\]$|Expected an? (.+?)(?:, but got|\. Got value|$)", re.MULTILINE
)
_GOT = re.compile(r"(?:Got|Given) value: (.*)")
_WORDS = (  # types, as jsonargparse writes them, in plain words
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"(?:typing|collections\.abc)\.", ""),
    (r"\b(?:list|Sequence|Iterable)\[(int|float|str)\]", r"a list of \1s"),
    (r"\b(?:list|Sequence|Iterable)\[(?:\w+\.)*(\w+)\]", r"a list of class_paths of the kind \1"),
    (r"Callable\[\[.*?\], (?:\w+\.)*(\w+)\]", r"\1"),
    (r"\btimedelta\b", "a duration such as 00:12:00:00"),
    (r"\bPath\b", "a path"),
    (r"Literal\[([^\]]*)\]", r"\1"),
    (r"Optional\[(.*)\]", r"\1, null"),
    (r"Union\[(.*)\]", r"\1"),
    (r"\bints\b", "whole numbers"),
    (r"\bfloats\b", "numbers"),
    (r"\bstrs\b", "texts"),
    (r"\bint\b", "a whole number"),
    (r"\bfloat\b", "a number"),
    (r"\bstr\b", "text"),
    (r"\bbool\b", "true or false"),
    (r"\bdict(?:\[.*?\])?", "a mapping"),
    (r"\bNoneType\b", "null"),
    (r"(^|, )([A-Z]\w+)(?=$|, )", r"\1a class_path of the kind \2"),
)
_SPEC = ("class_path", "init_args", "dict_kwargs")
_CLASSES = (  # modules whose classes configurations name
    *("pcvpt.data", "pcvpt.callbacks", "lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
    *("lightning.pytorch.strategies", "torch.optim"),
)
_LISTED = 16  # names that a message lists at most
_WIDEST = 60  # characters of a value that a message shows at most


class _Source(NamedTuple):
    """Where options were set.

    Attributes:
        name: File, or "the command line".
        values: Value of each key, by its whole name with dots; sections and their parts both.
        dashes: What precedes a key there.
    """

    name: str
    values: Mapping[str, Any]
    dashes: str = ""

    def value_of(self, key: str, text: str) -> str:
        """Return the value of ``key`` for a message, or else what ``text`` reports of it."""
        got = _GOT.search(text)
        value = self.values[key] if key in self.values else got[1] if got else "?"
        plain = {True: "true", False: "false", None: "null"}
        shown = plain[value] if value is None or isinstance(value, bool) else repr(value)
        return shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 3]}..."

    def key_below(self, outer: str, name: str) -> str:
        """Return the whole name of the key ``name`` somewhere below ``outer``."""
        below = (key for key in self.values if key.startswith(outer) and _last(key) == name)
        return next(below, f"{outer}.init_args.{name}")


def parse(command: str, arguments: Sequence[str]) -> Namespace:
    """Return the options of ``pcvpt COMMAND`` with ``arguments``.

    Args:
        command: One of "fit", "validate", "test" and "predict".
        arguments: Options, where each ``--config`` is followed by the path of a file.

    Raises:
        UsageError: Option that does not fit; names the file or the command line, the key and its
            value, and the nearest right key or value.
    """
    parser = build_parser(command)
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise UsageError(_explain(parser, arguments, str(error))) from error


def _explain(parser: ArgumentParser, arguments: Sequence[str], whole: str) -> str:
    """Return which of ``arguments`` is wrong, where ``whole`` is the error of all together."""
    files = [Path(file) for option, file in pairwise(arguments) if option == "--config"]
    sources = [_Source(str(file), dict(_flat(read_mapping(file)))) for file in files]
    known: Iterable[str] = parser.get_defaults().keys()
    for number, source in enumerate(sources, 1):
        try:
            known = parser.parse_args([f"--config={file}" for file in files[:number]]).keys()
        except ArgumentError as error:
            if not _REQUIRED.search(str(error)):  # a later file may give what is required
                return f"{source.name}: {_problem(str(error), source, list(known))}"
    sources.append(_Source("the command line", dict(_typed(arguments)), "--"))
    if required := _REQUIRED.search(whole):
        return _missing(required[1].split(", ")[0], whole, sources)
    return f"the command line: {_problem(whole, sources[-1], list(known))}"


def _problem(text: str, source: _Source, known: Sequence[str]) -> str:
    """Return what is wrong in ``source`` according to jsonargparse's ``text``.

    Args:
        text: Error of jsonargparse.
        source: Where the error is.
        known: Whole names of the options that there are.
    """
    keys = _KEY.findall(text)
    outer, kind = keys[0] if keys else "", _CLASS.search(text)
    if strange := re.search(r"Key must be a string, got: (.+)\.", text):
        return f"the key {strange[1].lower()} is not text; put it in quotes"
    if lone := re.match(r"argument --([^/:]+).*expected one argument", text):
        return f"--{lone[1]} needs a value"
    if unrecognized := re.match(r"unrecognized arguments: ((--)?([^\s=]*).*)", text):
        if not unrecognized[2]:
            return f"unrecognized arguments: {unrecognized[1]}; an option begins with --"
        return _unknown(unrecognized[3], source, known)
    spec = source.values.get(outer)
    if (
        isinstance(spec, Mapping)
        and "class_path" in spec
        and (extra := [k for k in spec if k not in _SPEC])
    ):
        return _unknown(f"{outer}.{extra[0]}", source, known)
    if unknown := _UNKNOWN.search(text):
        if outer:
            key = source.key_below(outer, unknown[2])
            given = [f"{key.rpartition('.')[0]}.{name}" for name in _arguments_of(kind and kind[1])]
            return _unknown(key, source, [*known, *given])
        return _unknown(".".join(filter(None, unknown.groups())), source, known)
    for key in (outer, f"{outer}.init_args"):
        whole = key == outer and "Unable to load config" not in text
        if not (whole or isinstance(source.values.get(key, {}), Mapping)):
            value = source.value_of(key, text)
            return f"{source.dashes}{key} is {value}, but must be a mapping of its options"
    if _NO_CLASS.search(text):
        name = kind[1] if kind else str(source.values.get(f"{outer}.class_path", spec))
        near = _nearest_class(name)
        hint = f"did you mean {near}?" if near else "give its whole path, package.module.Name"
        return f"{source.dashes}{outer}: {name!r:.60} is no class that fits; {hint}"
    if not outer:
        return " ".join(text.split())
    key = outer if len(keys) == 1 else source.key_below(outer, _last(keys[-1]))
    return _mismatch(key, text[text.rindex("Parser key") :], source)


def _mismatch(key: str, text: str, source: _Source) -> str:
    """Return what ``text`` expects of the value of ``key``, and the nearest of its choices."""
    value, said = source.value_of(key, text), f"{source.dashes}{key} is "
    expected = _EXPECTED.search(text)
    if expected is None:
        return f"{said}{value}: {' '.join(text.partition(':')[2].split())}"
    words = expected[1] or expected[2]
    near = difflib.get_close_matches(value.strip("'"), re.findall(r"'([\w.+-]+)'", words), n=1)
    hint = f"; did you mean {near[0]}?" if near and "Literal" in text else ""
    return f"{said}{value}, but must be {type_in_words(words)}{hint}"


def type_in_words(text: str) -> str:
    """Return the type ``text``, as jsonargparse writes it, in words: "a whole number or null"."""
    for pattern, plain in _WORDS:
        text = re.sub(pattern, plain, text)
    words = list(dict.fromkeys(re.split(r", | \| ", text.replace("'", ""))))
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _unknown(key: str, source: _Source, known: Sequence[str]) -> str:
    """Return that there is no ``key``, with the nearest of those ``known``."""
    parts = key.split(".")
    heads = (".".join(parts[:number]) for number in range(1, len(parts) + 1))
    key = next((h for h in heads if not any(f"{k}.".startswith(f"{h}.") for k in known)), key)
    above, _, name = key.rpartition(".")
    above = f"{above}." if above else ""
    beside = {k[len(above) :].split(".")[0]: k for k in known if k.startswith(above)}
    near = [above + other for other in difflib.get_close_matches(name, beside, n=1)]
    if not near:
        elsewhere = {_last(other): other for other in reversed(known)}
        near = [elsewhere[n] for n in difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.8)]
    said = f"unknown {'option' if source.dashes else 'key'} {source.dashes}{key}"
    if near:
        return f"{said}; did you mean {source.dashes}{near[0]}?"
    if len(beside) <= _LISTED:
        return f"{said}; there are {', '.join(sorted(beside))}"
    return f"{said}; `pcvpt fit --help` lists all"


def _missing(name: str, text: str, sources: Sequence[_Source]) -> str:
    """Return that the option ``name`` is required, and the source where it would belong."""
    keys, kind = _KEY.findall(text), _CLASS.search(text)
    above = keys[0] if keys else name.rpartition(".")[0]
    setter = next((source for source in reversed(sources) if above in source.values), None)
    said = f"{setter.name}: " if setter else ""
    if kind and keys:
        return f"{said}{kind[1]} needs {name}; give it in {keys[0]}.init_args"
    if setter and not isinstance(setter.values[above], Mapping):
        value = setter.value_of(above, text)
        return f"{said}{setter.dashes}{above} is {value}, but must be a mapping of its options"
    return f"{said}{name} is not given; add it to a config, or give --{name}"


def _flat(content: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Give the whole name of each key and section in ``content``, and its value."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield f"{above}{name}", value
            yield from _flat(value, f"{above}{name}.")
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _flat(value, f"{above[:-1]}[{number}].")


def _typed(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Give name and value of each option on the command line."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("--"):
            name, joined, value = argument[2:].partition("=")
            yield name.removesuffix("+"), value if joined else following


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _arguments_of(path: str | None) -> list[str]:
    module, _, name = (path or "").rpartition(".")
    try:
        kind = getattr(import_module(module), name)
        return list(ArgumentParser().add_class_arguments(kind, fail_untyped=False))
    except Exception:  # to import a user's module may raise anything
        return []


def _nearest_class(path: str) -> str | None:
    """Return the path of the class whose name is nearest to that of ``path``."""
    known: dict[str, str] = {}
    for module in _CLASSES:
        known |= {n: f"{module}.{n}" for n in dir(import_module(module)) if n[:1].isupper()}
    near = difflib.get_close_matches(_last(path), known, n=1)
    return known[near[0]] if near else None
