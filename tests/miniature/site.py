"""A web server on this machine, for downloads."""

import hashlib
import http.server
import re
from typing import Any

from pcvpt.data.tools.fetch.sources import Archive


class Site:
    """A web server of a few files, and all that may be wrong with one."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True  # whether it can resume
        self.length = True  # whether it states the length
        self.cuts: list[int] = []  # bytes that each of the next answers sends before it breaks off
        self.codes: list[int] = []  # of the next answers; then the file
        self.headers: dict[str, str] = {}  # of an error
        self.asked: list[str] = []  # names of the files
        self.starts: list[str | None] = []  # ranges
        handler = type("Handler", (_Handler,), {"site": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def offer(self, name: str, content: bytes, **options: Any) -> Archive:
        """Put a file there and return the row that describes it."""
        self.files[name] = content
        checksum = hashlib.sha256(content).hexdigest()
        options = {"checksum": checksum, "size": len(content), **options}
        return Archive(f"{self.url}/{name}", **options)


class _Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        name = self.path.lstrip("/")
        site.asked.append(name)
        site.starts.append(self.headers.get("Range"))
        if site.codes or name not in site.files:
            self.send_response(site.codes.pop(0) if site.codes else 404)
            for header, value in site.headers.items():
                self.send_header(header, value)
            self.end_headers()
            return
        content = site.files[name]
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found and site.ranges else 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if site.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = site.cuts.pop(0) if site.cuts else len(content)
        self.wfile.write(content[start : start + sent])

    def log_message(self, *_: object) -> None:
        pass
