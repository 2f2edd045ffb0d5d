"""dcls-listen: from an address, a pipe and a microphone; what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from preprocessing.audio import read_audio
from preprocessing.live import Microphone
from tests.conftest import RECORDINGS, Here, _open_once, environment, first_labels

COMMAND = [sys.executable, "-c", "from audioset_dcls.commands.listen import main; main()"]
SAME = ("start", "end", "label", "score", "mean", "implied")


@pytest.fixture
def listen_here(tagger_file: Path, monkeypatch: pytest.MonkeyPatch, command_here: Here) -> Here:
    monkeypatch.setattr("audioset_dcls.tagging.tagger.open_model", _open_once)
    return partial(command_here, "dcls-listen", "--model", tagger_file)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of `tmp_path`, on a local server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Half a minute with some of the sounds that the session's tagger knows, stereo at 44.1 kHz."""
    sounds = [read_audio(RECORDINGS / name, 44_100) for name in ("cow.ogg", "rooster.ogg", "helicopter.ogg")]
    joined = np.concatenate([np.pad(sound, (0, 44_100)) for sound in sounds])
    soundfile.write(tmp_path / "night.flac", np.stack([joined, 0.5 * joined], 1), 44_100)
    return tmp_path / "night.flac"


def events(lines: str) -> list[dict[str, Any]]:
    """Those that have ended, as `dcls-tag` writes them."""
    news = [json.loads(line) for line in lines.splitlines()]
    ended = [{key: one[key] for key in SAME} for one in news if one["type"] == "end"]
    return sorted(ended, key=lambda event: (event["start"], -event["score"], event["label"]))


def tagged(tag_here: Here, path: Path, *options: str) -> list[dict[str, Any]]:
    (record,) = json.loads(tag_here(path, "--timeline", "--format", "json", *options)[1])
    return record["events"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [(), ("--window", "5", "--hop", "2.5", "--threshold", "0.1", "--quiet")])
def test_a_file_that_a_server_streams(
    options: tuple[str, ...], recording: Path, served: str, listen_here: Here, tag_here: Here
) -> None:
    status, out, err = listen_here(f"{served}/night.flac", *options)
    assert (status, err) == (0, "")
    assert events(out) == tagged(tag_here, recording, *options)
    assert first_labels()["cow.ogg"] in {event["label"] for event in events(out)}
    for line in map(json.loads, out.splitlines()):
        assert line["time"].startswith("20")
        assert line["behind"] >= 0


@pytest.mark.parametrize("kind", ["wav", "flac", "raw"])
def test_a_pipe(kind: str, recording: Path, tagger_file: Path, tag_here: Here) -> None:
    """WAV of unknown length, as ffmpeg writes it, another format, or bare samples."""
    samples, rate = soundfile.read(recording, dtype="int16")
    options = ["--rate", str(rate), "--channels", "2"] if kind == "raw" else []
    content = samples.tobytes()
    if kind == "wav":
        soundfile.write(recording.with_suffix(".wav"), samples, rate)
        content = recording.with_suffix(".wav").read_bytes()
        at = content.index(b"data") + 4
        content = content[:4] + b"\xff" * 4 + content[8:at] + b"\xff" * 4 + content[at + 4 :]
    elif kind == "flac":
        content = recording.read_bytes()
    done = subprocess.run(
        [*COMMAND, "-", "--model", str(tagger_file), *options], env=environment(), input=content, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert events(done.stdout.decode()) == tagged(tag_here, recording)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to(number: signal.Signals, tagger_file: Path) -> None:
    """What sounds ends, and the status is 0. News come while the pipe is open, on time."""
    sound = np.tile(read_audio(RECORDINGS / "cow.ogg"), 4)[: 11 * 32_000]
    content = (sound.clip(-1, 1) * 32767).astype("<i2").tobytes()
    process = subprocess.Popen(
        [*COMMAND, "-", "--rate", "32000", "--model", str(tagger_file)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(content)
    process.stdin.flush()
    started = json.loads(process.stdout.readline())
    assert started["type"] == "start"
    assert started["at"] == 10
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    numbers = {json.loads(line)["number"] for line in out.splitlines() if json.loads(line)["type"] == "end"}
    assert started["number"] in numbers


def test_clips_and_a_command(recording: Path, served: str, listen_here: Here, tmp_path: Path) -> None:
    """A clip of each event that people are told of, and a process, which writes its label to a pipe."""
    os.mkfifo(tmp_path / "told")
    pipe = os.fdopen(os.open(tmp_path / "told", os.O_RDWR), "r", encoding="utf-8")
    (tmp_path / "tell.py").write_text(
        "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), os.environ['DCLS_LABEL'].encode() + b'\\n')"
    )
    run = f"{sys.executable} {tmp_path / 'tell.py'} {tmp_path / 'told'}"
    status, out, err = listen_here(f"{served}/night.flac", "--record-clips", tmp_path / "clips", "--run", run)
    assert status == 0
    shown = [event["label"] for event in events(out) if not event["implied"]]
    assert len(list((tmp_path / "clips").glob("*.flac"))) == len(shown) > 0
    started = len(shown) - err.count("not started")
    with pipe:
        assert {pipe.readline().rstrip() for _ in range(started)} <= set(shown)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["http://127.0.0.1:1/x.mp3"], 1, "http://127.0.0.1:1/x.mp3: cannot be opened (Connection refused)"),
        (["rtsp://me:secret@127.0.0.1:1/x"], 1, "rtsp://127.0.0.1:1/x: cannot be opened (Connection refused)"),
        (["file:///etc/hostname"], 1, "file:///etc/hostname: cannot be opened"),
        ([str(RECORDINGS / "cow.ogg")], 2, "is a file; tag it with dcls-tag"),
        (["microphone", "--rate", "8000"], 2, "--rate is for samples on stdin"),
        (["-", "--rate", "8"], 2, "--rate must be 1000 to 768000 Hz"),
        (["http://x", "--threshold", "2"], 2, "threshold must be"),
        (["http://x", "--run", "no_such_program"], 2, "there is no such program"),
        (["http://x", "--mqtt", "127.0.0.1:1"], 1, "no broker answers there"),
        (["http://x", "--labels", "missing.txt"], 2, "missing.txt: cannot be read"),
    ],
)
def test_errors_are_one_line(arguments: list[str], status: int, message: str, listen_here: Here) -> None:
    found, out, err = listen_here(*arguments)
    assert (found, out) == (status, "")
    (line,) = err.splitlines()
    assert line.startswith("dcls-listen: ")
    assert message in line
    assert "secret" not in line


def test_a_playlist_opens_no_file_of_this_machine(served: str, listen_here: Here, tmp_path: Path) -> None:
    """A server that is asked for sound may name what it likes."""
    with av.open(str(tmp_path / "secret.ts"), "w") as container:
        stream = container.add_stream("aac", rate=32_000, layout="mono")
        sound = read_audio(RECORDINGS / "cow.ogg")
        for at in range(0, len(sound) - 1024, 1024):
            frame = av.AudioFrame.from_ndarray(sound[None, at : at + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = 32_000, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for address, expected in (("secret.ts", 0), (f"file://{tmp_path / 'secret.ts'}", 1)):
        entry = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:5,\n{address}\n#EXT-X-ENDLIST\n"
        (tmp_path / "list.m3u8").write_text(entry)
        status, out, err = listen_here(f"{served}/list.m3u8")
        assert (status, bool(out), bool(err)) == (expected, not expected, bool(expected)), err


def sounddevice(blocks: list[np.ndarray], **device: Any) -> SimpleNamespace:
    """A library that plays blocks to whoever opens an input."""

    class InputStream:
        def __init__(self, rate: int, size: int, name: Any, channels: int, dtype: str, callback: Any) -> None:
            assert (dtype, channels) == ("float32", blocks[0].shape[1])
            self._callback = callback

        def __enter__(self) -> None:
            for block in blocks:
                self._callback(block, len(block), None, None)

        def __exit__(self, *_: object) -> None:
            pass

    about = {"name": "Mic\x1b[31m", "default_samplerate": 16_000.0, "max_input_channels": 2} | device

    def query_devices(name: Any = None, kind: str | None = None) -> Any:
        if name not in (None, 0):
            raise ValueError(f"No input device matching {name!r}")
        return about if kind else [about, {**about, "max_input_channels": 0, "name": "Speaker"}]

    return SimpleNamespace(InputStream=InputStream, query_devices=query_devices, PortAudioError=RuntimeError)


def test_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (4800, 2)).astype(np.float32)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice([sound[at : at + 1600] for at in (0, 1600, 3200)]))
    blocks = Microphone("0").connect()
    got = [next(blocks) for _ in range(3)]
    assert [rate for rate, _ in got] == [16_000] * 3
    np.testing.assert_allclose(np.concatenate([block for _, block in got]), sound.mean(1), atol=1e-6)


def test_a_microphone_that_is_not_there(monkeypatch: pytest.MonkeyPatch, listen_here: Here) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice([np.zeros((1, 2), np.float32)]))
    status, _, err = listen_here("USB")
    assert status == 1
    assert err == ("dcls-listen: USB: cannot be opened (No input device matching 'USB'); inputs here: 'Mic\\x1b[31m'\n")


def test_a_microphone_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.live._PATIENCE", 0.001)
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice([np.zeros((1600, 2), np.float32)]))
    with pytest.raises(Exception, match="microphone: gives no sound; is it still plugged in"):
        list(Microphone().connect())


def test_a_microphone_faster_than_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound was lost: what follows is another stretch, at its own time."""
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice([np.zeros((1600, 2), np.float32)] * 101))
    with pytest.raises(Exception, match="too slow"):
        list(Microphone().connect())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, listen_here: Here) -> None:
    for name, arguments in (("sounddevice", []), ("paho.mqtt", ["http://x", "--mqtt", "localhost"])):
        monkeypatch.setitem(sys.modules, name, None)
        status, _, err = listen_here(*arguments)
        assert status == 1
        assert err.endswith(f"{name} is not installed; pip install 'audioset-dcls[live]'\n")


def test_torch_is_not_imported(recording: Path, tagger_file: Path) -> None:
    code = (
        "import sys; from audioset_dcls.commands.listen import main\n"
        f"sys.argv = ['dcls-listen', '-', '--quiet', '--model', {str(tagger_file)!r}]\n"
        "main()\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'paho', 'sounddevice', 'rich'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), input=recording.read_bytes(), capture_output=True, check=True
    )
    assert done.stderr.strip() == b""
