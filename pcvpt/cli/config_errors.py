"""Errors of a configuration: in which file, which key, its value, and the nearest right one.

jsonargparse finds what does not fit. To find the file, the files are parsed again, one more at a
time.
"""

import difflib
import inspect
import re
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module
from itertools import accumulate, pairwise, product
from pkgutil import resolve_name

from jsonargparse import ArgumentParser, Namespace

from pcvpt.cli.parser import build_parser
from pcvpt.errors import UsageError
from pcvpt.training.recipe import REPLACED, replaced

_KEY = re.compile(r'Parser key "([^"]+)"')
_UNKNOWN = re.compile(
    r"(?:Group '(\S+)' does not accept o|O)ption '([^']+)'|unrecognized arguments: --([^\s=]+)"
)
_CLASS = re.compile(r"(?:with given class_path '|Import path (?!does )|'class_path': ')([^'\s]*)")
_NO_CLASS = re.compile(  # what jsonargparse says of a class that does not exist or does not fit
    r"module '\S+' has no attribute|No module named|Expected a dot import path|"
    "not correspond to a subclass"
)
_REQUIRED = re.compile(r"arguments are required: ([^,\s]+)")
_EXPECTED = re.compile(
    r"Subtypes: \[(.+)\]$|Expected an? (.+?)(?:, but got|\. Got value|$)", re.MULTILINE
)
_GOT = re.compile(r"(?:(?:Got|Given) value|dot import path string): (.*)")
_FORMS = (  # types, as jsonargparse writes them, without their brackets
    (r"<class '([^']*)'>", r"\1"),
    (r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", ""),
    (r"Callable\[\[.*?\], (\w+)\]", r"\1"),
    (r"\b(?:list|Sequence|Iterable)\[(\w+)\]", r"a list of \1s"),
    (r"\bdict\[.*?\]", "dict"),
    (r"Optional\[(.*)\]", r"\1, null"),
    (r"(?:Literal|Union)\[([^\]]*)\]", r"\1"),
    (r"(?:^|(?<=, ))([A-Z]\w+)(?=$|, | \|)", r"a class_path of the kind \1"),
)
_WORDS = {
    **{"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"},
    **{"ints": "whole numbers", "floats": "numbers", "strs": "texts", "dict": "a mapping"},
    "timedelta": "a duration such as 00:12:00:00",
    "a class_path of the kind Path": "a path",
    "a class_path of the kind NoneType": "null",
}
_CLASSES = (  # modules whose classes configurations name
    *("pcvpt.data", "pcvpt.callbacks", "lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
    *("lightning.pytorch.strategies", "torch.optim"),
)
_COUNT = "model.num_classes"


def parse(command: str, arguments: Sequence[str]) -> Namespace:
    """Return the options of ``pcvpt COMMAND``; in ``arguments``, a path follows each ``--config``.

    For an option that does not fit, a UsageError names the file or the command line, the key and
    its value, and the nearest right key or value.
    """
    parser = build_parser(command)
    try:
        options = parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise UsageError(_explain(parser, arguments, str(error))) from error
    if _COUNT in options:  # jsonargparse would replace it without a word
        raise UsageError(_explain(parser, arguments, _COUNT))
    given = parser.parse_args(list(arguments), defaults=False)
    for phase, name in product(("prompt", "finetune"), REPLACED):
        key = f"model.{phase}.optimizer.init_args.{name}"
        if key in given and "retest" not in given:  # the file of a run holds every default
            raise UsageError(replaced(f"{key}={given[key]}", name))
    return options


def _explain(parser: ArgumentParser, arguments: Sequence[str], whole: str) -> str:
    """Return which of ``arguments`` is wrong, where ``whole`` is the error of all together."""
    files = [file for option, file in pairwise(arguments) if option == "--config"]
    known = list(parser.get_defaults().keys())
    lacking = None  # the file after which something required is missing
    for number, file in enumerate(files, 1):
        try:
            options = parser.parse_args([f"--config={file}" for file in files[:number]])
        except ArgumentError as error:
            if not _REQUIRED.search(str(error)):
                return f"{file}: {_problem(str(error), known)}"
            lacking = lacking or file  # a later file may give it
            continue
        if _COUNT in options:
            return f"{file}: {_problem(_COUNT, known)}"
        lacking, known = None, list(options.keys())
    if lacking and _REQUIRED.search(whole):
        return f"{lacking}: {_problem(whole, known)}"
    return f"the command line: {_problem(whole, known, '--')}"


def _problem(text: str, known: Sequence[str], dashes: str = "") -> str:
    """Return what is wrong according to jsonargparse's ``text``.

    ``known`` are whole names of options; ``dashes`` precede a key where the error is.
    """
    keys, kind, got = _KEY.findall(text), _CLASS.search(text), _GOT.search(text)
    keys = list(dict.fromkeys(keys))
    outer, key = dashes + ".".join(keys[:1]), dashes + ".init_args.".join(keys)
    value = f"{got[1] if got else '?':.60}"
    value = {"": "''", "None": "null", "True": "true", "False": "false"}.get(value, value)
    if _COUNT in text:
        return f"leave out {dashes}{_COUNT}: the number of classes is that of the data"
    if "surrogates not allowed" in text:
        return (
            f"{outer}: a name is not in the encoding of this system; rename it, or set PYTHONUTF8=1"
        )
    if required := _REQUIRED.search(text):
        needed = f"{key}.init_args.{required[1]}" if keys else f"{dashes}{required[1]}"
        return f"{needed} is required, but not given"
    if unknown := _UNKNOWN.search(text):
        name = ".".join(filter(None, unknown.groups()))
        if not keys:
            return _unknown(name, known, dashes)
        given = inspect.signature(resolve_name(kind[1])).parameters.keys() if kind else set()
        below = f"{keys[0]}.init_args."
        known = [*known, *(below + other for other in given - {"kwargs"})]
        return _unknown(below + name, known, dashes)
    if _NO_CLASS.search(text) or (kind and _import_error(kind[1])):
        name = kind[1] if kind else value
        return f"{outer}: {name:.60} is no class that fits; {_nearest_class(name)}"
    if not keys:
        return f"{' '.join(text.split()):.300}"
    text = text[text.rindex("Parser key") :]
    expected = _EXPECTED.search(text)
    if expected is None:
        return f"{key}: {' '.join(text.partition(':')[2].split()):.300}"
    words = expected[1] or expected[2]
    choices = re.findall(r"'([\w.+-]+)'", words) if "Literal" in words else []
    hint = "".join(f"; did you mean {n}?" for n in difflib.get_close_matches(value, choices, n=1))
    return f"{key} is {value}, but must be {type_in_words(words)}{hint}"


def type_in_words(text: str) -> str:
    """Return the type ``text``, as jsonargparse writes it, in words: "a whole number or null"."""
    for pattern, plain in _FORMS:
        text = re.sub(pattern, plain, text)
    for name, plain in _WORDS.items():
        text = re.sub(rf"\b{name}\b", plain, text)
    words = list(dict.fromkeys(re.split(r", | \| ", text.replace("'", ""))))
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _unknown(key: str, known: Sequence[str], dashes: str) -> str:
    """Return that there is no ``key``, with the nearest of those ``known``."""
    heads = accumulate(key.split("."), "{}.{}".format)
    key = next((h for h in heads if not any(f"{k}.".startswith(f"{h}.") for k in known)), key)
    above, dot, name = key.rpartition(".")
    above += dot
    beside = sorted({k.removeprefix(above).partition(".")[0] for k in known if k.startswith(above)})
    near = [above + other for other in difflib.get_close_matches(name, beside, n=1)]
    elsewhere = {other.split(".")[-1]: other for other in reversed(known)}
    near += [elsewhere[n] for n in difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.8)]
    hint = f"did you mean {dashes}{near[0]}?" if near else f"there are {', '.join(beside):.300}"
    return f"unknown {'option' if dashes else 'key'} {dashes}{key}; {hint}"


def _nearest_class(path: str) -> str:
    """Return why there is no class ``path``, and the one whose name is nearest to it."""
    known: dict[str, str] = {}
    for module in _CLASSES:
        known |= {n: f"{module}.{n}" for n in dir(import_module(module)) if n[:1].isupper()}
    module, dot, name = path.rpartition(".")
    near = [known[n] for n in difflib.get_close_matches(name, known, n=1) if known[n] != path]
    why = (_import_error(path) or "it is of another kind") if dot else ""
    if near:
        remedy = f"did you mean {near[0]}?"
    elif not dot:
        remedy = "give its path, package.module.Name"
    else:
        remedy = "name its folder in PYTHONPATH" if why.startswith("No module") else ""
    return "; ".join(filter(None, (why, remedy)))


def _import_error(path: str) -> str | None:
    """Return why the class ``path`` can't be imported; None if it can."""
    try:
        resolve_name(path)
    except Exception as error:  # a module may raise anything
        return " ".join(str(error).split()) or type(error).__name__
    return None
