"""dcls-page."""

from __future__ import annotations

import sys
import webbrowser
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from audioset_dcls.commands.parser import create_parser, stop
from audioset_dcls.folders import data_folder
from preprocessing.terminal import show

COMMAND = "dcls-page"
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # this and the next one: the page may use threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # after an update the browser must not mix old files with new ones
}


def main() -> None:
    """The page that hears, on this machine."""
    parser = create_parser(
        COMMAND,
        "Open a page in the browser that shows and plays what is in a recording. The browser does the work; this "
        "command serves the page to this machine alone, until Ctrl-C.",
        epilog="exit status: 0 Ctrl-C, 1 the page is not built or the port is taken, 2 usage",
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="(default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address alone (default: off)")
    arguments = parser.parse_args()
    if not 0 <= arguments.port <= 65_535:
        parser.error(f"--port must be 0 to 65535, not {arguments.port}")
    page(arguments.port, not arguments.no_browser)


def page(port: int, browse: bool) -> None:
    """`dcls-page`; leaves by SystemExit if the page cannot be served."""
    try:
        folder = page_folder()
    except FileNotFoundError as error:
        stop(COMMAND, 1, str(error))
    try:
        server = page_server(folder, port)
    except OSError as error:
        stop(COMMAND, 1, f"port {port} cannot be used: {error.strerror or error}; choose another with --port")
    with server:
        address = f"http://127.0.0.1:{server.server_port}/"
        show(f"{address} - Ctrl-C ends it")
        sys.stdout.flush()  # whoever reads a pipe waits for the address
        with suppress(KeyboardInterrupt):  # the way to end it
            if browse and not webbrowser.open(address):
                show("no browser was found; open the address in one")
            server.serve_forever()


def page_folder() -> Path:
    """The built page. Raises FileNotFoundError, which says how to build it."""
    try:
        folder = data_folder("page") / "dist"
    except FileNotFoundError:
        folder = None
    if folder is None or not (folder / "index.html").is_file():
        raise FileNotFoundError(
            "the page is not built here; run make page in a checkout (it needs Node.js), and install from there again "
            "if this is no checkout"
        )
    return folder


def page_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """Serves a built page to this machine, on a free port by default. Raises OSError if the port is taken."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))


class _Handler(SimpleHTTPRequestHandler):
    # not from the system's own table, which may call scripts plain text: browsers refuse those
    extensions_map = {  # noqa: RUF012 - that is how the base class wants it
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".svg": "image/svg+xml",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: object) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass
