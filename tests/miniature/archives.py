"""Archives in memory, always of the same bytes."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping


def tar(members: Mapping[str, bytes | None], compressed: bool = False, **fields: object) -> bytes:
    """Return a tar of files, or of folders where the content is None.

    ``fields`` are set in the header of the last member.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number, (name, content) in enumerate(members.items(), start=1):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            for field, value in fields.items() if number == len(members) else ():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content or b""))
    return gzip.compress(packed.getvalue(), mtime=0) if compressed else packed.getvalue()


def zipped(members: Mapping[str, bytes], kind: int = 0) -> bytes:
    """Return a zip; ``kind`` is the type of the members in Unix."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (kind | 0o777) << 16 if kind else 0
            archive.writestr(info, content)
    return packed.getvalue()


def pack(name: str, members: Mapping[str, bytes]) -> bytes:
    """Return an archive of the kind that its name says; ``.gz`` holds the first file alone."""
    if name.endswith(".zip"):
        return zipped(members)
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return tar(members, compressed=not name.endswith(".tar"))
    return gzip.compress(next(iter(members.values())), mtime=0)
