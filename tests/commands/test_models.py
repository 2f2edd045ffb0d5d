"""dcls-models, against a server that stands in for EfficientAT's releases, and the table of names."""

from __future__ import annotations

import hashlib
import os
import pty
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from audioset_dcls.commands import tag
from audioset_dcls.models import hub
from audioset_dcls.tagging.exported import exported
from tests.conftest import COMMAND, RECORDINGS, Here, environment
from tests.models import stand_ins
from tests.servers import Server

NAME = "efficientat_dymn04"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file as EfficientAT publishes it, with made-up numbers."""
    path = tmp_path_factory.mktemp("release") / "dymn04_as.pt"
    torch.save(stand_ins.efficientat_state_dict("dymn04_as"), path)
    return path.read_bytes()


@pytest.fixture
def release(server: Server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server holds that file, as GitHub does behind a redirection; `publish` says what is known of it."""
    server.content, server.leads_to = weights, "/elsewhere.pth"
    monkeypatch.setattr(hub, "data_folder", lambda name: tmp_path)
    publish(server, tmp_path, hashlib.sha256(weights).hexdigest(), len(weights))
    return server


def publish(server: Server, folder: Path, sha256: str | None, size: int | None) -> None:
    (folder / "published.yaml").write_text(
        f"{NAME}: {{url: '{server.url}', sha256: {sha256 or 'null'}, size: {size or 'null'}, trunk: {NAME}, "
        "dcls: false, parameters: 1_961_239, gmacs: 0.12, mean_average_precision: 45.0, licence: MIT}\n"
    )


@pytest.fixture
def models_here(command_here: Here) -> Here:
    return partial(command_here, "dcls-models")


def cached(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "audioset_dcls" / "model.pth"


def files(tmp_path: Path) -> list[str]:
    """What lies in the cache but for locks, which stay."""
    return sorted(path.name for path in cached(tmp_path).parent.iterdir() if path.suffix != ".lock")


def test_a_file_is_fetched_through_redirections_and_breaks(release: Server, models_here: Here, tmp_path: Path) -> None:
    release.breaks = [1_000_000, 2_000_000]
    status, out, err = models_here("fetch", NAME)
    assert (status, err) == (0, "")
    assert out == f"{NAME}: {cached(tmp_path)}, {len(release.content) / 1e6:.1f} MB\n"
    assert cached(tmp_path).read_bytes() == release.content
    assert [wanted for wanted in release.requests if wanted] == 2 * ["bytes=1000000-"] + 2 * ["bytes=3000000-"]
    count = len(release.requests)
    assert models_here("fetch", NAME)[0] == 0
    assert len(release.requests) == count  # it is there


def test_an_interrupted_download_is_continued_by_the_next(release: Server, models_here: Here, tmp_path: Path) -> None:
    release.breaks = [1_000_000, 0]
    status, out, err = models_here("fetch", NAME)
    assert (status, out) == (1, "")
    assert err.startswith(f"dcls-models: {NAME}: {release.url}: ")
    assert err.endswith("the 1,000,000 bytes that came are kept, run again to continue\n")
    assert err.count("\n") == 1
    assert models_here("fetch", NAME)[0] == 0
    assert release.requests[-1] == "bytes=1000000-"
    assert cached(tmp_path).read_bytes() == release.content


@pytest.mark.parametrize("kind", ["checksum", "page", "page that claims to be a file", "nothing there"])
def test_another_file_is_refused_and_not_kept(kind: str, release: Server, models_here: Here, tmp_path: Path) -> None:
    said = "damaged or not the expected file: its SHA-256 is"
    if kind == "page":
        release.content, release.content_type = b"<html>log in</html>", "text/html"
        said = "the server sends a web page instead of a file"
    elif kind == "nothing there":
        publish(release, tmp_path, None, None)
        release.leads_to, said = "/missing", "the server answers 404 Not Found"
    elif kind == "page that claims to be a file":
        publish(release, tmp_path, None, None)
        release.content, said = b"<!doctype html><html>log in</html>", "a web page; expected a file written by"
    else:
        release.content = release.content[:-1] + b"x"
    for _ in range(2):  # nothing is kept that the next run would meet
        status, out, err = models_here("fetch", NAME)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert said in err
        assert files(tmp_path) == []


def test_offline(
    release: Server, models_here: Here, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so, of dcls-tag too; what is in the cache works."""

    def no_names(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", no_names)
        status, _, err = models_here("fetch", NAME)
        assert (status, err.count("\n")) == (1, 1)
        assert f"{release.url}: no connection; is this machine offline? " in err
        patched.setattr(sys, "argv", ["dcls-tag", "--model", NAME, "x.wav"])
        with pytest.raises(SystemExit) as exit_:
            tag.main()
        assert exit_.value.code == 2
        assert "is this machine offline?" in capsys.readouterr().err
    assert models_here("fetch", NAME)[0] == 0
    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    assert models_here("fetch", NAME)[0] == 0


@pytest.mark.parametrize("pinned", [True, False])
def test_verify(pinned: bool, release: Server, weights: bytes, models_here: Here, tmp_path: Path) -> None:
    if not pinned:
        publish(release, tmp_path, None, None)
    assert models_here("verify") == (0, "", "")
    status, out, err = models_here("verify", NAME)
    assert (status, out) == (1, "")
    assert err == f"dcls-models: {NAME}: is not in the cache; dcls-models fetch {NAME}\n"

    models_here("fetch", NAME)
    known = "published" if pinned else "first downloaded"
    assert models_here("verify") == (0, f"{NAME}: {cached(tmp_path)}: as {known}\n", "")

    for damaged, said in (
        (weights[:-1], f"has {len(weights) - 1:,} bytes, expected {len(weights):,}"),
        (weights[:-1] + b"x", f"expected {hashlib.sha256(weights).hexdigest()}"),
    ):
        cached(tmp_path).write_bytes(damaged)
        status, out, err = models_here("verify")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert said in err
        assert err.endswith(f"dcls-models fetch {NAME} downloads it again\n")
    status, _, err = models_here("fetch", NAME)
    assert status == 0
    assert cached(tmp_path).read_bytes() == weights


def test_a_damaged_record_is_named(release: Server, models_here: Here, tmp_path: Path) -> None:
    publish(release, tmp_path, None, None)
    models_here("fetch", NAME)
    cached(tmp_path).with_name("model.pth.sha256").write_bytes(b"\xff\n")
    status, _, err = models_here("verify", NAME)
    assert status == 1
    assert "its record model.pth.sha256 is damaged" in err


@pytest.mark.slow
def test_remove(release: Server, models_here: Here, tmp_path: Path) -> None:
    publish(release, tmp_path, None, None)
    models_here("fetch", NAME)
    made = exported(NAME)
    cached(tmp_path).with_name("model.pth.part").write_bytes(b"left over")
    assert models_here("remove", NAME) == (0, f"{NAME}: removed\n", "")
    assert files(tmp_path) == ["exported"]
    assert list(made.parent.iterdir()) == []
    status, out, err = models_here("remove", NAME)
    assert (status, out, err) == (1, "", f"dcls-models: {NAME}: is not in the cache\n")


@pytest.mark.slow
def test_a_measurement_is_in_the_table(release: Server, models_here: Here, tmp_path: Path) -> None:
    status, out, _ = models_here("measure", NAME)
    assert status == 0
    seconds = out.removeprefix(f"{NAME}: ").split(" s ")[0]
    (row,) = [line for line in models_here("list")[1].splitlines() if line.startswith(NAME)]
    assert row.split() == [
        NAME,
        "45.0",
        "2.0",
        "M",
        "0.12",
        f"{len(release.content) / 1e6:.1f}",
        "MB",
        seconds,
        "MIT",
        "yes",
    ]
    for broken in (b"{", b"[]", b"\xff", b'{"a": 1', b"[" * 100_000):
        (cached(tmp_path).parent / "measured.json").write_bytes(broken)
        (row,) = [line for line in models_here("list")[1].splitlines() if line.startswith(NAME)]
        assert row.split()[-3:] == ["-", "MIT", "yes"]


def test_unknown_names_are_refused_before_anything_is_done(release: Server, models_here: Here) -> None:
    status, out, err = models_here("fetch", NAME, "efficientat_dymn05")
    assert (status, out) == (2, "")
    assert err == f"dcls-models: efficientat_dymn05: no such name; did you mean '{NAME}'?\n"
    assert release.requests == []


@pytest.mark.parametrize("command", ["tag", "models"])
def test_the_table_needs_no_torch(command: str, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'timm', 'torchvision', 'onnx'])\n"
        f"from audioset_dcls.commands.{command} import main\n"
        f"sys.argv = ['x', '{'--list-models' if command == 'tag' else 'list'}']; main()"
    )
    settings = environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
    header, embedded, *rows, note = done.stdout.splitlines()
    assert header.split() == [
        "name",
        "AudioSet",
        "mAP",
        "parameters",
        "GMACs",
        "download",
        "s/min",
        "licence",
        "cached",
    ]
    assert embedded.startswith("(default)")
    assert embedded.endswith("in the box")
    assert "527 classes" in note
    assert [row.split()[0] for row in rows] == list(hub.available_checkpoints())
    assert "efficientat_mn04            43.2       1.0 M   0.11    4.1 MB      -  MIT             no" in rows


def on_terminal(cache: Path, *arguments: str) -> str:
    """What dcls-tag says on stderr, which is a terminal."""
    primary, secondary = pty.openpty()
    settings = environment() | {"XDG_CACHE_HOME": str(cache)}
    command = [*COMMAND, str(RECORDINGS / "cow.ogg"), *arguments]
    subprocess.run(command, env=settings, stdout=subprocess.DEVNULL, stderr=secondary, check=True)
    os.close(secondary)
    said = b""
    try:
        while block := os.read(primary, 4096):
            said += block
    except OSError:  # the other end is closed, and all is read
        pass
    os.close(primary)
    return said.decode()


def test_better_taggers_are_mentioned_once_and_on_a_terminal_alone(tagger_file: Path, tmp_path: Path) -> None:
    mention = "better taggers than the embedded one are a name away: dcls-tag --list-models"
    assert on_terminal(tmp_path, "--quiet") == ""
    assert mention not in on_terminal(tmp_path, "--model", str(tagger_file))
    settings = environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    piped = subprocess.run([*COMMAND, str(RECORDINGS / "cow.ogg")], env=settings, capture_output=True, text=True)
    assert mention not in piped.stderr
    assert on_terminal(tmp_path).count(mention) == 1
    assert mention not in on_terminal(tmp_path)
