"""A hub for models on this machine: what `huggingface_hub` asks for over HTTP, and no more."""

import base64
import hashlib
import http.server
import json
import re
from typing import Any

import yaml

TOKEN = "hf_of_a_test"
LICENCES = {"apache-2.0", "mit", "cc0-1.0", "cc-by-nc-4.0", "other", "unknown"}
Files = dict[str, bytes]
_PATH = re.compile(
    r"/(?:api/models/)?(?P<name>[^/]+/[^/]+?)(?P<batch>\.git/info/lfs/objects/batch)?"
    r"(?:/(?P<what>revision|preupload|commit|resolve)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?"
)


class Hub:
    """Repositories: the files of each of their commits, by its hash, the oldest one first."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.private: set[str] = set()
        self.large: Files = {}  # contents that were sent before their commit, by SHA-256
        self.asked: list[str] = []
        self.broken: str | None = None  # part of the paths that are refused
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def commit(self, name: str, files: Files) -> str:
        """Add a commit with ``files`` beside those of the last one; return its hash."""
        commits = self.commits.setdefault(name, {})
        files = {**(commits[self.last(name)] if commits else {}), **files}
        text = repr((name, len(commits), sorted(files.items())))
        commits[hashlib.sha1(text.encode()).hexdigest()] = files
        return self.last(name)

    def last(self, name: str) -> str:
        return [*self.commits[name]][-1]


class Refusal(Exception):
    """An error as an answer: its status, and the word that the client looks for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, answer = 200, dict[str, str](), None
        try:
            if self.hub.broken and self.hub.broken in self.path:
                raise Refusal(400, "Broken")
            answer = self._answer(self.path.partition("?")[0], body, headers)
        except Refusal as error:
            status, word = error.args
            headers["X-Error-Code"] = word
            # The client reads the address of a repository that exists from the refusal.
            answer = {"error": word, "errors": [{"message": word}], "url": f"{self.hub.url}/a/b"}
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self, path: str, body: bytes, headers: dict[str, str]) -> Any:
        if self.command == "PUT":
            self.hub.large[hashlib.sha256(body).hexdigest()] = body
            return b""
        if path == "/api/validate-yaml":
            return _validated(json.loads(body)["content"])
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized")
        if path == "/api/repos/create":
            return self._created(json.loads(body))
        asked = _PATH.fullmatch(path)
        if asked is None or asked["name"] not in self.hub.commits:
            raise Refusal(404, "RepoNotFound")
        name, what, commit = asked["name"], asked["what"], asked["revision"]
        if commit in (None, "main"):
            commit = self.hub.last(name)
        if commit not in self.hub.commits[name]:
            raise Refusal(404, "RevisionNotFound")
        files = self.hub.commits[name][commit]
        if what == "commit":
            return self._committed(name, [json.loads(line) for line in body.splitlines()])
        if what == "preupload":
            return {"files": [_mode(each["path"]) for each in json.loads(body)["files"]]}
        if asked["batch"]:
            return {"objects": [self._place(each) for each in json.loads(body)["objects"]]}
        if what == "resolve":
            if asked["file"] not in files:
                raise Refusal(404, "EntryNotFound")
            digest = hashlib.sha256(files[asked["file"]]).hexdigest()
            headers |= {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
            return files[asked["file"]]
        siblings = [{"rfilename": file} for file in sorted(files)]
        return {
            "id": name,
            "sha": commit,
            "private": name in self.hub.private,
            "siblings": siblings,
        }

    def _created(self, asked: dict[str, Any]) -> dict[str, str]:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.commits:
            raise Refusal(409, "You already created this model repo")
        if asked.get("visibility") == "private" or asked.get("private"):
            self.hub.private.add(name)
        self.hub.commit(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return {"url": f"{self.hub.url}/{name}"}

    def _place(self, large: dict[str, Any]) -> dict[str, Any]:
        return {**large, "actions": {"upload": {"href": f"{self.hub.url}/large/{large['oid']}"}}}

    def _committed(self, name: str, lines: list[dict[str, Any]]) -> dict[str, str]:
        header, *rest = lines
        if header["value"].get("parentCommit") not in (None, self.hub.last(name)):
            raise Refusal(412, "A commit has happened since")
        files = {}
        for line in rest:
            value = line["value"]
            large = line["key"] == "lfsFile"
            content = self.hub.large[value["oid"]] if large else base64.b64decode(value["content"])
            files[value["path"]] = content
        commit = self.hub.commit(name, files)
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}

    def log_message(self, *_: object) -> None:
        pass


def _mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}


def _validated(card: str) -> dict[str, list[str]]:
    """Refuse metadata as the hub does: no mapping, or an unknown licence."""
    metadata = yaml.safe_load(card.split("---\n")[1])
    if metadata["license"] not in LICENCES:
        raise Refusal(400, '"license" must be one of the list')
    return {"errors": [], "warnings": []}
