"""dcls-page: what it serves, and what it says if it cannot."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from audioset_dcls.commands.page import main, page_server
from tests.conftest import ROOT, environment

COMMAND = [sys.executable, "-c", "from audioset_dcls.commands.page import main; main()"]


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small page in place of the project's."""
    folder = tmp_path / "page" / "dist"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("a page")
    (folder / "main.js").touch()
    (folder / "a.wasm").touch()
    (folder / "sub").mkdir()
    monkeypatch.setattr("audioset_dcls.commands.page.data_folder", lambda name: tmp_path / name)
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with page_server(folder) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_it_serves_what_a_browser_wants(built: Path) -> None:
    with served(built) as address:
        for name, kind in {"": "text/html", "main.js": "text/javascript", "a.wasm": "application/wasm"}.items():
            with urllib.request.urlopen(address + name) as answer:
                assert answer.headers["Content-Type"].split(";")[0] == kind
                assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        for outside in ("sub/", "../secret", "%2e%2e/secret"):
            (built.parent / "secret").touch()
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(address + outside)


def test_it_opens_the_browser(built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[str] = []

    def browse(address: str) -> bool:
        opened.append(address)
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr(sys, "argv", ["dcls-page"])
    main()
    assert opened == [capsys.readouterr().out.split()[0]]


def test_a_page_that_is_not_built_is_one_line(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (built / "index.html").unlink()
    monkeypatch.setattr(sys, "argv", ["dcls-page"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    error = capsys.readouterr().err
    assert "make page" in error
    assert error.count("\n") == 1


def test_a_taken_port_is_one_line(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with page_server(built) as server:
        monkeypatch.setattr(sys, "argv", ["dcls-page", "--port", str(server.server_port)])
        with pytest.raises(SystemExit) as left:
            main()
    assert left.value.code == 1
    assert "choose another with --port" in capsys.readouterr().err


def test_a_wrong_port_is_a_usage_error() -> None:
    done = subprocess.run([*COMMAND, "--port", "99999"], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "0 to 65535" in done.stderr
