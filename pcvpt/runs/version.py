"""The version of pcvpt."""

import importlib.metadata


def own_version() -> str | None:
    """Return the version of pcvpt; None if it is not installed."""
    try:
        return importlib.metadata.version("pcvpt")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout, not installed
        return None
