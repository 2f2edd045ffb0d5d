"""Who is told of a stream's events: clips, a command, a broker, a terminal."""

from __future__ import annotations

import io
import json
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from audioset_dcls.tagging.events import Event
from audioset_dcls.tagging.live.clips import LONGEST, ClipRecorder
from audioset_dcls.tagging.live.command import CommandRunner, check_command
from audioset_dcls.tagging.live.display import Display
from audioset_dcls.tagging.live.listener import END, START, News
from audioset_dcls.tagging.live.mqtt import Mqtt
from preprocessing.decoding.spans import Waveform
from tests.test_printed import EVIL, harmless

RATE = 1000


def time_of(seconds: float) -> datetime:
    return datetime(2023, 1, 1, 12, 30, tzinfo=UTC) + timedelta(seconds=seconds)


def news(kind: str, number: int, label: str, start: float, end: float, at: float, score: float = 0.5) -> News:
    return News(kind, number, Event(start, end, label, score, score), at)


class Recorded:
    """A stream of 0.1 s blocks of a ramp, whose news come at given seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorder = ClipRecorder(folder, RATE, 5.0, time_of)

    def play(self, seconds: int, told: dict[int, list[News]], base: float = 0.0) -> Waveform:
        ramp = (np.arange(seconds * RATE) % 30_000 / 2**15).astype(np.float32)
        blocks = (ramp[at : at + 100] for at in range(0, len(ramp), 100))
        for number, _ in enumerate(self.recorder.keep(base, blocks), 1):
            self.recorder.heard(told.get(number, []) if number % 10 else told.get(number // 10 * 10, []))
        self.recorder.finish()
        return ramp

    def clip(self, name: str) -> np.ndarray:
        samples, rate = soundfile.read(self.folder / name, dtype="float32")
        assert rate == RATE
        return samples  # type: ignore[no-any-return]


def test_clips_of_events_that_end_and_of_those_that_go_on(tmp_path: Path) -> None:
    """With a second before and after, as far as there is sound; of a long one its first half minute."""
    stream = Recorded(tmp_path / "clips")
    told = {
        50: [news(START, 1, "Dog", 0.5, 5, 5)],
        100: [news(END, 1, "Dog", 0.5, 5, 10), news(START, 2, "Rain", 6, 10, 10)],
        780: [news(START, 3, "Cat: a/b", 77, 78, 78)],
    }
    ramp = stream.play(80, told)
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names == ["20230101T123000_Dog.flac", "20230101T123006_Rain.flac", "20230101T123117_Cat_a_b.flac"]
    spans = [(0, 6000), (5000, round((6 + LONGEST + 1) * RATE)), (76_000, 80_000)]
    for name, (begin, end) in zip(names, spans, strict=True):
        np.testing.assert_allclose(stream.clip(name), ramp[begin:end], atol=2**-15)


def test_an_event_whose_start_was_long_ago(tmp_path: Path) -> None:
    """It lay below the threshold for an hour: the clip begins where it was noticed."""
    stream = Recorded(tmp_path / "clips")
    ramp = stream.play(200, {1500: [news(START, 1, "Rain", 2, 150, 150)], 1510: [news(END, 1, "Rain", 2, 150, 151)]})
    (clip,) = (tmp_path / "clips").iterdir()
    np.testing.assert_allclose(stream.clip(clip.name), ramp[144_000:151_000], atol=2**-15)


def test_a_recorder_holds_no_more_than_the_longest_clip(tmp_path: Path) -> None:
    stream = Recorded(tmp_path / "clips")
    stream.play(300, {})
    assert stream.recorder._count <= (LONGEST + 2 + 2 * 5 + 0.2) * RATE


def test_a_command_gets_the_event_and_no_shell(tmp_path: Path) -> None:
    """The label is in its environment, not among its arguments; nothing of it is run."""
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['DCLS_EVENT'] + '\\n' + os.environ['DCLS_LABEL'])"
    (tmp_path / "told.py").write_text(code)
    runner = CommandRunner(f"{sys.executable} '{tmp_path / 'told.py'}' '{tmp_path / 'a b;$(c)'}'", pytest.fail)
    event = {"type": "start", "label": "$(touch x) `y`\x00", "score": 0.5, "number": 1}
    runner.heard(event)
    (process,) = runner._running
    assert process.wait(60) == 0
    told, label = (tmp_path / "a b;$(c)").read_text().splitlines()
    assert json.loads(told) == event
    assert label == "$(touch x) `y`\\x00"


def test_a_command_that_does_not_end_is_not_started_again_and_again() -> None:
    notes: list[str] = []
    runner = CommandRunner(f"{sys.executable} -c 'import signal; signal.pause()'", notes.append)
    for number in range(6):
        runner.heard({"label": "Dog", "score": 0.5, "number": number})
    assert len(runner._running) == 4
    assert notes == [f"{sys.executable}: not started: 4 of it run still"] * 2
    for process in runner._running:
        process.kill()
        process.wait()
    runner.heard({"label": "Dog", "score": 0.5, "number": 7})
    (process,) = runner._running
    process.kill()
    process.wait()


@pytest.mark.parametrize("command", ["", "'", "no_such_program_here --x"])
def test_what_is_no_command(command: str) -> None:
    with pytest.raises(ValueError, match="--run"):
        check_command(command)


class Broker:
    """As much of an MQTT 3.1.1 broker as a client that publishes needs: it accepts, and keeps what it gets."""

    def __init__(self, answer: int = 0) -> None:
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.messages: list[tuple[str, str, bool]] = []
        self.login = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._server.accept()
        with client, client.makefile("rb") as stream:
            while head := stream.read(1):
                length = shift = 0
                while True:
                    (byte,) = stream.read(1)
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = stream.read(length)
                kind = head[0] >> 4
                if kind == 1:  # CONNECT
                    self.login = body
                    client.sendall(bytes([0x20, 2, 0, self._answer]))
                elif kind == 3:  # PUBLISH
                    (size,) = struct.unpack(">H", body[:2])
                    retained = bool(head[0] & 1)
                    self.messages.append((body[2 : 2 + size].decode(), body[2 + size :].decode(), retained))
                elif kind == 12:  # PINGREQ
                    client.sendall(b"\xd0\x00")

    def ended(self) -> list[tuple[str, str, bool]]:
        self._thread.join(60)
        self._server.close()
        return self.messages


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker._server.close()


def test_mqtt(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Home Assistant finds a sensor; its state is what sounds now."""
    monkeypatch.setattr(socket, "gethostname", lambda: "garden pi")
    monkeypatch.setenv("MQTT_USERNAME", "me")
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    mqtt = Mqtt(f"127.0.0.1:{broker.port}")
    events = [
        news(START, 1, "Dog", 0, 5, 5).to_dict(),
        news(START, 2, "Bark", 0, 5, 5).to_dict(),
        news(END, 2, "Bark", 0, 5, 10).to_dict(),
        news(END, 1, "Dog", 0, 5, 10).to_dict(),
    ]
    for event in events:
        mqtt.heard(event)
    mqtt.close()
    messages = broker.ended()
    assert b"me" in broker.login
    assert b"secret" in broker.login
    found = [text for topic, text, kept in messages if topic.startswith("homeassistant/sensor/") and kept]
    (config,) = map(json.loads, found)
    assert config["state_topic"] == "dcls/garden_pi/sound"
    assert config["availability_topic"] == "dcls/garden_pi/status"
    assert [json.loads(text) for topic, text, _ in messages if topic == config["json_attributes_topic"]] == events
    states = [text for topic, text, kept in messages if topic == config["state_topic"] and kept]
    assert states == ["nothing", "Dog", "Bark", "Dog", "nothing"]
    assert [text for topic, text, _ in messages if topic == config["availability_topic"]] == ["online", "offline"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port", ":1883"])
def test_no_broker(address: str) -> None:
    with pytest.raises((ConnectionError, ValueError), match=f"--mqtt {address}: "):
        Mqtt(address)


def test_a_broker_that_refuses() -> None:
    broker = Broker(answer=5)
    with pytest.raises(ConnectionError, match=r"refuses \(.*authori.*\); see MQTT_USERNAME"):
        Mqtt(f"127.0.0.1:{broker.port}")
    assert broker.ended() == []


def test_the_display() -> None:
    """What sounds, what has ended, how late it is; nothing of a label acts on the terminal."""
    file = io.StringIO()
    display = Display(f"[red]{EVIL}", Console(file=file, force_terminal=True, width=100, color_system=None))
    long = news(START, 1, EVIL, 0, 5, 5, 0.75)
    with display:
        display.heard([long, news(START, 2, "[bold]Dog", 0, 5, 5)], 5.0, 0.0, time_of(5))
        display.heard([news(END, 2, "[bold]Dog", 0, 5, 10)], 10.0, 7.0, time_of(10))
        display.note("a note\x1b[2J")
    lines = display._lines(10.0, 7.0, time_of(10))
    assert all(harmless(line) for line in lines)
    assert "12:30:10  0:10.0, 7 s behind" in lines[0]
    assert lines[1].startswith("  ###############       0.75")
    assert lines[2].endswith("0:00.0 - 0:05.0   0.50  [bold]Dog")
    shown = file.getvalue()
    assert "[bold]Dog" in shown
    assert "]0;owned" not in shown.replace("\\x1b]0;owned", "")
    assert "a note\\x1b[2J" in shown
