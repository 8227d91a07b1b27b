"""Adapters on the Hugging Face hub: fetch the one that an address names, and upload a folder.

The list of a repository's files is read first; nothing is loaded from, or added to, one that holds
other files than `pcvpt push` writes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants

from pcvpt.adapters.adapter import shown
from pcvpt.errors import UsageError

ADAPTER, DESCRIPTION, CARD = "adapter.safetensors", "adapter_config.json", "README.md"
_FILES = {ADAPTER, DESCRIPTION, CARD, ".gitattributes"}  # the hub writes the last one
_SCHEME = "hf://"


def local_file(path: str | Path, revision: str | None = None) -> Path:
    """Return the file ``path``, or that of ``hf://OWNER/NAME[@REVISION]`` in the hub's cache.

    A UsageError is raised if the hub is away, has no such file, or holds other ones beside it.
    """
    if not str(path).startswith(_SCHEME):
        if revision is not None:
            raise UsageError(f"{path}: revision={revision!r} needs an address {_SCHEME}OWNER/NAME")
        return Path(path).expanduser()
    name, _, pinned = str(path).removeprefix(_SCHEME).partition("@")
    commit = revision or pinned or None
    with _repository(name) as hub:
        if not constants.HF_HUB_OFFLINE:  # else the file is in the cache, or an error
            commit, _, _ = _look(hub, name, commit)
        return Path(hub.hf_hub_download(name, ADAPTER, revision=commit))


def push_folder(folder: Path, name: str, private: bool = False, overwrite: bool = False) -> str:
    """Upload the files of ``folder`` to the repository ``name``, in one commit; return its hash.

    The repository is made if there is none. Where it holds an adapter, ``overwrite`` adds a commit.
    Nothing is uploaded, and a UsageError is raised, if the hub refuses or is away; if the
    repository holds an adapter, or other files, or is public against ``private``.
    """
    with _repository(name) as hub:
        hub.create_repo(name, private=private or None, exist_ok=True)
        last, is_private, found = _look(hub, name)
        if private and not is_private:
            raise UsageError(f"{_SCHEME}{name} exists and is public; give another name")
        if ADAPTER in found and not overwrite:
            raise UsageError(f"{_SCHEME}{name} holds an adapter; --overwrite adds a commit")
        files = [CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())]
        message = f"{ADAPTER} by pcvpt"
        return hub.create_commit(name, files, commit_message=message, parent_commit=last).oid


def check_name(name: str) -> None:
    """Raise a UsageError unless ``name`` can be that of a repository."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise UsageError(f"{name!r} is no name on the hub; give OWNER/NAME, such as me/birds")


def _look(hub: HfApi, name: str, commit: str | None = None) -> tuple[str | None, bool, set[str]]:
    """Return of a repository the hash of ``commit``, whether it is private, and its files."""
    info = hub.model_info(name, revision=commit)
    found = {file.rfilename for file in info.siblings or ()}
    if others := sorted(found - _FILES):
        raise UsageError(f"{_SCHEME}{name} holds {shown(others)}, not of pcvpt; give another name")
    return info.sha, bool(info.private), found


@contextmanager
def _repository(name: str) -> Iterator[HfApi]:
    """Yield the hub; name the repository in errors."""
    check_name(name)
    try:
        yield HfApi()
    except UsageError:
        raise
    except Exception as error:  # the client raises its own errors, and those of its HTTP library
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"{_SCHEME}{name}: {reason:.300}; check the name, the network, and the token "
            "(HF_TOKEN, or `hf auth login`)"
        ) from error
