"""How much a run says: the options -v and -q, and Lightning's own messages."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import lightning

from pcvpt.errors import UsageError

_LEVELS = {"-v": logging.DEBUG, "--verbose": logging.DEBUG}
_LEVELS |= {"-q": logging.ERROR, "--quiet": logging.ERROR}
_LIGHTNING = os.path.dirname(lightning.__file__)


class _Lines(logging.StreamHandler[Any]):
    """Writes to the stdout of the moment, which a live display replaces."""

    stream = property(lambda self: sys.stdout, lambda self, stream: None)


def take_verbosity(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Set how much is said; return ``arguments`` without -v and -q, and whether -v is there.

    Without -v what Lightning says of itself is left out. With -q only errors, and what is printed
    as the result, are left. A UsageError refuses both.
    """
    levels = {_LEVELS[name] for name in arguments if name in _LEVELS}
    if len(levels) > 1:
        raise UsageError("-q and -v contradict each other; leave out one of them")
    level = next(iter(levels), logging.INFO)
    lines = _Lines()
    if level == logging.INFO:
        lines.addFilter(lambda record: not record.pathname.startswith(_LIGHTNING))
        warnings.filterwarnings("ignore", module=r"lightning\.")
    elif level == logging.ERROR:
        warnings.simplefilter("ignore")
    logging.getLogger("lightning").handlers.clear()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [lines]
        logger.setLevel(max(level, logging.INFO))
    own = logging.DEBUG if level == logging.DEBUG else logging.NOTSET
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(own)
    return [name for name in arguments if name not in _LEVELS], level == logging.DEBUG
