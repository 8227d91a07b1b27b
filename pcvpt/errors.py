"""The one exception type that the command prints without a traceback, and what others mean."""

import re
from collections.abc import Iterator

# Of torch's allocators of GPU, CPU and MPS, of CUDA itself, and of its libraries, such as
# CUBLAS_STATUS_ALLOC_FAILED, which allocate by themselves.
_EXHAUSTED = re.compile(
    r"out of memory|ALLOC(ATION)?_FAILED|DefaultCPUAllocator: (can't allocate|not enough) memory",
    re.IGNORECASE,
)


class UsageError(ValueError):
    """Bad input from the user; the message names the file or value, and the remedy."""

    def __init__(self, message: str) -> None:
        # A DataLoader's worker process passes its error on as the text of a traceback.
        if message.startswith("Caught UsageError in "):
            message = message.rpartition("UsageError: ")[2].strip()
        super().__init__(message)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and the chain of errors that caused it, each once."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:  # chains may end in themselves
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the memory of a device or of the machine is exhausted."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    told = isinstance(error, RuntimeError) and _EXHAUSTED.search(str(error)) is not None
    return named or told or isinstance(error, MemoryError)
