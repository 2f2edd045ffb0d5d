"""Downloads against a real HTTP server on this machine that breaks, lies and forgets as asked."""

from __future__ import annotations

import hashlib
import logging
import urllib.request
from http.client import HTTPMessage
from pathlib import Path

import pytest
import torch

from audioset_dcls.models import (
    CheckpointError,
    DownloadError,
    create_model,
    hub,
    load_checkpoint,
    save_checkpoint,
)
from audioset_dcls.models import download as download_module
from audioset_dcls.models.download import download
from tests.servers import CONTENT, Server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.pth"


def test_a_file_arrives_whole(server: Server, target: Path) -> None:
    download(server.url, target, hashlib.sha256(CONTENT).hexdigest())
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_a_broken_connection_is_continued(server: Server, target: Path) -> None:
    server.breaks = [100_000, 50_000]
    download(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_run_continues_where_the_last_gave_up(server: Server, target: Path) -> None:
    server.breaks = [100_000, 0]
    with pytest.raises(DownloadError, match="100,000 bytes that came are kept"):
        download(server.url, target)
    assert not target.exists()
    download(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=100000-"


def test_a_file_changed_between_two_runs_starts_again(server: Server, target: Path) -> None:
    server.breaks = [100_000, 0]
    with pytest.raises(DownloadError):
        download(server.url, target)
    server.content, server.etag = CONTENT[::-1], '"second"'
    download(server.url, target)
    assert target.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(("ranges", "etag"), [(False, '"first"'), (True, None), (True, 'W/"weak"')])
def test_servers_that_cannot_continue_start_again(server: Server, target: Path, ranges: bool, etag: str | None) -> None:
    server.ranges, server.etag, server.breaks = ranges, etag, [100_000]
    download(server.url, target)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_no_beginning_starts_again(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("model.pth.part").write_bytes(CONTENT + b"more")
    target.with_name("model.pth.part.validator").write_text('"first"')
    download(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_wrong_checksum_leaves_nothing(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"SHA-256 is [0-9a-f]{64}, expected 0000"):
        download(server.url, target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_refusals_are_one_clear_line(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"missing\.pth: the server answers 404 Not Found$"):
        download(server.url.replace("model", "missing"), target)
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page instead of a file"):
        download(server.url, target)
    assert len(server.requests) == 2  # neither is tried again
    assert not target.exists()


def test_no_server_is_one_clear_line(target: Path) -> None:
    with pytest.raises(DownloadError, match="Connection refused"):
        download("http://127.0.0.1:9/model.pth", target)


def test_a_published_name_is_downloaded_once_and_checked_always(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = create_model("test_convnext", dcls=False, num_classes=3).eval()
    save_checkpoint(tmp_path / "model.pth", model)
    server.content = (tmp_path / "model.pth").read_bytes()
    (tmp_path / "published.yaml").write_text(
        f"tiny: {{url: '{server.url}?download=1', sha256: null, size: null, trunk: test_convnext, dcls: false,"
        " parameters: 1, gmacs: 0.1, mean_average_precision: 1.0, licence: MIT}"
    )
    monkeypatch.setattr(hub, "data_folder", lambda name: tmp_path)
    log_mel = torch.randn(1, 1, 128, 200)

    with caplog.at_level(logging.WARNING):
        loaded = load_checkpoint("tiny")
    torch.testing.assert_close(loaded(log_mel), model(log_mel))
    digest = hashlib.sha256(server.content).hexdigest()
    cache = tmp_path / "cache" / "audioset_dcls"
    assert (cache / "model.pth.sha256").read_text() == f"{digest} {len(server.content)}\n"
    assert "no checksum is published; recorded" in caplog.text

    load_checkpoint("tiny")
    assert len(server.requests) == 1

    (cache / "model.pth").write_bytes(server.content[:-10])
    load_checkpoint("tiny")
    assert len(server.requests) == 2
    assert "not what was downloaded" in caplog.text


def test_an_address_works_like_a_file(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_checkpoint(tmp_path / "model.pth", create_model("test_convnext", dcls=False, num_classes=3))
    server.content = (tmp_path / "model.pth").read_bytes()
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(server.url).config["name"] == "test_convnext"
    assert "model.pth: not encrypted" in caplog.text
    assert "no checksum is published; recorded" in caplog.text
    load_checkpoint(server.url)
    assert len(server.requests) == 1


def test_something_else_behind_an_address_is_not_kept(server: Server) -> None:
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no checkpoint; expected a file written by"):
            load_checkpoint(server.url)
    assert len(server.requests) == 2


def test_a_file_that_is_too_large_is_not_fetched(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_MOST_BYTES", len(CONTENT) - 1)
    monkeypatch.setattr(download_module, "_CHUNK", 1000)
    for length in ("", str(50 * 10**9), None, "-5", "many", "9" * 30):  # told, lied about, and not told
        server.length = length
        with pytest.raises(DownloadError, match=r"model\.pth: has [\d,]+ bytes or more, at most 255,999"):
            download(server.url, target)
        assert not [path for path in target.parent.iterdir() if not path.name.endswith(".validator")]
    monkeypatch.setattr(download_module, "_MOST_BYTES", len(CONTENT))
    server.length = None
    download(server.url, target)
    assert target.read_bytes() == CONTENT


def test_an_answer_may_lead_elsewhere_over_the_same_scheme(server: Server, target: Path) -> None:
    server.leads_to = "/elsewhere.pth"
    download(server.url, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x"])
def test_an_answer_may_not_lead_to_other_schemes(server: Server, target: Path, address: str) -> None:
    server.leads_to = address
    with pytest.raises(DownloadError):
        download(server.url, target)
    assert not target.exists()


def test_https_does_not_lead_to_http() -> None:
    request = urllib.request.Request("https://127.0.0.1/model.pth")
    follow = download_module._Redirects().redirect_request
    with pytest.raises(DownloadError, match=r"leads to http://127\.0\.0\.1/model\.pth, which is not https"):
        follow(request, None, 302, "Found", HTTPMessage(), "http://127.0.0.1/model.pth")
    assert follow(request, None, 302, "Found", HTTPMessage(), "https://127.0.0.1/other.pth") is not None


def test_a_link_in_the_cache_is_not_written_through(server: Server, target: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target.parent.mkdir()
    target.with_name("model.pth.part").symlink_to(victim)
    with pytest.raises(DownloadError):
        download(server.url, target)
    assert victim.read_text() == "precious"
