"""The one exception type that the command prints without a traceback."""


class UsageError(ValueError):
    """Bad input from the user; its message names the file or value and the remedy."""
