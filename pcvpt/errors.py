"""The one exception type that the command prints without a traceback."""

from collections.abc import Iterator


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
