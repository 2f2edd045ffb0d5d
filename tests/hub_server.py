"""An HTTP server on this machine that speaks the Hub's API, as far as its client needs it for taggers.

It is written after the client's requests and the Hub's public description: repositories are made, files go up as
regular ones inside the commit or by Git LFS, and come down with their checksums as ETag.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"  # of the one user who may write


@dataclass
class Repository:
    """Commit -> {path: (content, whether it is a large file)}; branch -> commit."""

    commits: dict[str, dict[str, tuple[bytes, bool]]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, tuple[bytes, bool]]) -> str:
        number = hashlib.sha1(f"commit {len(self.commits)}".encode()).hexdigest()
        self.commits[number] = {**self.commits.get(self.branches.get("main", ""), {}), **files}
        self.branches["main"] = number
        return number


class Hub(ThreadingHTTPServer):
    """`repositories` by name; `requests` keeps "METHOD /path" of each; `damage` spoils what is sent."""

    daemon_threads = True
    damage = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, name: str, **files: bytes) -> str:
        """A commit of someone else's; all files as large ones."""
        content = {path.replace("__", "."): (data, True) for path, data in files.items()}
        return self.repositories.setdefault(name, Repository()).commit(content)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._file(with_content=False)

    def do_GET(self) -> None:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.*)?", self._path()):
            repository = self.server.repositories.get(found[1])
            if repository is None:
                return self._refuse(404, "RepoNotFound")
            commit = repository.branches["main"]
            siblings = [{"rfilename": path} for path in repository.commits[commit]]
            return self._json({"id": found[1], "sha": commit, "private": False, "siblings": siblings, "tags": []})
        self._file(with_content=True)

    def do_PUT(self) -> None:
        self.server.requests.append(f"PUT {self._path()}")
        content = self._body()
        digest = self._path().removeprefix("/lfs/")
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.large[digest] = content
        self._json({})

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self._path()}")
        body, path = self._body(), self._path()
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._refuse(401, None)
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name in self.server.repositories:
                return self._json({"error": "exists", "url": f"{self.server.url}/{name}"}, 409)
            self.server.repositories[name] = Repository()
            self.server.repositories[name].commit({".gitattributes": (b"*.onnx filter=lfs\n", False)})
            return self._json({"url": f"{self.server.url}/{name}", "name": name})
        if path.endswith("/info/lfs/objects/batch"):
            return self._json(
                {"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]}
            )
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found is None or found[1] not in self.server.repositories:
            return self._refuse(404, "RepoNotFound")
        if found[2] == "preupload":
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith((".onnx", ".safetensors")) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        number = self.server.repositories[found[1]].commit(dict(self._changes(body)))
        self._json({"success": True, "commitOid": number, "commitUrl": f"{self.server.url}/{found[1]}/commit/{number}"})

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        action = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": action}

    def _changes(self, body: bytes) -> Any:
        for line in body.splitlines():
            change = json.loads(line)
            if change["key"] == "file":
                yield change["value"]["path"], (base64.b64decode(change["value"]["content"]), False)
            elif change["key"] == "lfsFile":
                yield change["value"]["path"], (self.server.large[change["value"]["oid"]], True)

    def _file(self, with_content: bool) -> None:
        self.server.requests.append(f"{self.command} {self._path()}")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._path())
        repository = self.server.repositories.get(found[1]) if found else None
        if found is None or repository is None:
            return self._refuse(401 if found else 404, "RepoNotFound")
        commit = repository.branches.get(found[2], found[2])
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound", commit)
        if found[3] not in repository.commits[commit]:
            return self._refuse(404, "EntryNotFound", commit)
        content, is_large = repository.commits[commit][found[3]]
        checksum = hashlib.sha256(content) if is_large else hashlib.sha1(b"blob %d\0%s" % (len(content), content))
        sent = content[:-1] + b"?" if self.server.damage else content
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{checksum.hexdigest()}"')
        if is_large:
            self.send_header("X-Linked-ETag", f'"{checksum.hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if with_content:
            self.wfile.write(sent)

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str | None, commit: str | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
