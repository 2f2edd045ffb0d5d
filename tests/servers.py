"""An HTTP server on this machine in place of those that publish checkpoints; it breaks and lies as asked."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Serves `content` at any path, as its attributes say; `requests` keeps the Range header of every request."""

    content = CONTENT
    content_type = "application/octet-stream"
    etag: str | None = '"first"'
    length: str | None = ""  # what Content-Length says; empty: the truth; None: it is left out
    leads_to: str | None = None  # another address
    ranges = True  # answer Range with 206
    breaks: list[int]  # bytes after which the coming connections close
    requests: list[str | None]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks, self.requests = [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/model.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.requests.append(wanted)
        if "missing" in self.path:
            return self.send_error(404)
        if server.leads_to is not None and self.path != "/elsewhere.pth":
            self.send_response(302)
            self.send_header("Location", server.leads_to)
            return self.end_headers()
        unchanged = self.headers["If-Range"] in (None, server.etag)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges and unchanged else 0
        if start >= len(server.content):
            return self.send_error(416)
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Type", server.content_type)
        if server.length is not None:
            self.send_header("Content-Length", server.length or str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, *_: object) -> None:
        pass
