"""The page built and served, and a browser for it. Needs Node.js, npm, Debian's Chromium and Playwright for Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from filelock import FileLock

from audioset_dcls.commands.page import page_server
from tests.conftest import ROOT, chromium
from tests.page.script import PAGE, node

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

Open: TypeAlias = Callable[..., AbstractContextManager["Page"]]


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What npm installs for the page: ONNX Runtime for JavaScript among it."""
    node()
    (ROOT / "build").mkdir(exist_ok=True)
    with FileLock(ROOT / "build" / "page.lock"):  # several processes may test
        if not (PAGE / "node_modules").is_dir():
            command = [shutil.which("npm") or "npm", "ci", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=PAGE, check=True, timeout=300)
    return PAGE / "node_modules"


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory, node_modules: Path) -> Path:
    """What `make page` builds."""
    chromium()
    target = tmp_path_factory.mktemp("page")
    for build in ([sys.executable, ROOT / "scripts" / "page_data.py"], [node(), PAGE / "build.js"]):
        subprocess.run([*build, target], check=True, timeout=120)
    return target


@pytest.fixture(scope="session")
def address(dist: Path) -> Iterator[str]:
    with page_server(dist) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def open_page(address: str, playwright: Playwright) -> Open:
    """`with open_page(*arguments, **options) as page`: the page, ready to tag, in a Chromium with these arguments.

    options: of Playwright's `new_context`. It fails if the page logs an error or asks another host for anything.
    """

    def is_foreign(url: str) -> bool:
        return not url.startswith((address, f"blob:{address}"))

    @cache
    def browser(*arguments: str) -> Browser:
        # no sandbox: the tests may run as root in a container, and open nothing but this page
        return playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", *arguments])

    @contextmanager
    def opened(*arguments: str, **options: Any) -> Iterator[Page]:
        problems: list[str] = []
        with browser(*arguments).new_context(**options) as context:
            page = context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            page.on("request", lambda request: problems.append(request.url) if is_foreign(request.url) else None)
            page.goto(address)
            page.locator("#start").wait_for(timeout=60_000)
            yield page
        assert not problems

    return opened
