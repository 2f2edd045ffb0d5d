"""Sound while it is made: a microphone, an address that ffmpeg opens, or samples on a pipe.

A source's `connect()` gives (sample rate in Hz, mono float32 block) pairs until the sound ends, and raises AudioError,
one line, if it cannot be had. `endless` says afterwards whether it should have gone on: then one connects again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
from collections.abc import Iterator
from typing import IO, Any, Protocol

import numpy as np

from preprocessing.audio import AudioError, Mixer
from preprocessing.decoding.ffmpeg import samples_of
from preprocessing.decoding.spans import Waveform
from preprocessing.terminal import first_line, printable

_PATIENCE = 10.0  # s without sound from a source that has been opened: it is gone
_CREDENTIALS = re.compile(r"(://)[^/@]*@")
_HELD = 100  # blocks of 0.1 s that wait for this process before some are lost
# what an address may lead to: no file of this machine, whatever a playlist says
_PROTOCOLS = "http,https,tcp,tls,udp,rtp,rtsp,rtsps,rtmp,rtmps,srt,crypto,httpproxy"


class LiveSource(Protocol):
    name: str
    endless: bool

    def connect(self) -> Iterator[tuple[int, Waveform]]: ...


class Microphone:
    """A sound card's input: the default one, or one by number or part of its name."""

    def __init__(self, device: str | None = None) -> None:
        self.name = device or "microphone"
        self.endless = True
        self._device = int(device) if device is not None and device.isdecimal() else device

    def connect(self) -> Iterator[tuple[int, Waveform]]:
        sounddevice = self._library()
        mixer = Mixer(self.name, None)
        blocks: queue.Queue[np.ndarray] = queue.Queue(_HELD)
        lost = False

        def keep(samples: np.ndarray, frames: int, time: Any, status: Any) -> None:
            nonlocal lost
            try:
                blocks.put_nowait(samples.copy())
            except queue.Full:
                lost = True

        try:
            device = sounddevice.query_devices(self._device, "input")
            rate = int(device["default_samplerate"])
            stream = sounddevice.InputStream(
                rate, rate // 10, self._device, min(device["max_input_channels"], 2), "float32", callback=keep
            )
        except (ValueError, sounddevice.PortAudioError) as error:
            names = ", ".join(repr(str(one["name"])) for one in self._inputs(sounddevice)) or "none"
            raise AudioError(f"{self.name}: cannot be opened ({first_line(error)}); inputs here: {names}") from error
        with stream:
            while not lost:
                try:
                    yield rate, mixer(blocks.get(timeout=_PATIENCE))
                except queue.Empty:
                    raise AudioError(f"{self.name}: gives no sound; is it still plugged in?") from None
        raise AudioError(f"{self.name}: sound was lost: this machine is too slow; take a longer --hop")

    def _library(self) -> Any:
        try:
            import sounddevice
        except OSError as error:  # it looks for PortAudio when it is imported
            raise AudioError(f"{self.name}: {first_line(error)}; install PortAudio (libportaudio2)") from error
        return sounddevice

    def _inputs(self, sounddevice: Any) -> list[Any]:
        return [one for one in sounddevice.query_devices() if one["max_input_channels"]]


class Address:
    """What ffmpeg opens by an address: http, https, rtsp, rtmp, srt, udp, ..."""

    def __init__(self, url: str) -> None:
        self.name = printable(_CREDENTIALS.sub(r"\1", url))
        self.endless = False
        self._url = url

    def connect(self) -> Iterator[tuple[int, Waveform]]:
        import av

        # rtsp over TCP: a firewall lets it through, and no packet is lost
        options = {"protocol_whitelist": _PROTOCOLS, "rtsp_transport": "tcp"}
        try:
            container = av.open(self._url, timeout=_PATIENCE, options=options, metadata_errors="replace")
        except Exception as error:  # PyAV's errors are OSError and ValueError, and more
            raise AudioError(f"{self.name}: cannot be opened ({_reason(error)})") from error
        with container:
            stream = container.streams.best("audio")
            if stream is None:
                raise AudioError(f"{self.name}: has no sound")
            self.endless = container.duration is None
            yield from _decoded(self.name, container, stream)


class Samples:
    """16-bit little-endian samples, channels interleaved, from an open descriptor (stdin)."""

    endless = False

    def __init__(self, file: IO[bytes], rate: int, channels: int = 1) -> None:
        self.name = "stdin"
        self._file, self._rate, self._channels = file, rate, channels

    def connect(self) -> Iterator[tuple[int, Waveform]]:
        mixer, rest, frame = Mixer(self.name, None), b"", 2 * self._channels
        while content := os.read(self._file.fileno(), 2**16):  # what is there, without waiting for more
            content = rest + content
            whole = len(content) - len(content) % frame
            rest = content[whole:]
            if whole:
                samples = np.frombuffer(content[:whole], "<i2").reshape(-1, self._channels)
                yield self._rate, mixer(samples.astype(np.float32) / 2**15)


class Piped:
    """A file of any format that comes through a pipe while it is written, such as `ffmpeg -f wav -`."""

    endless = False

    def __init__(self, file: IO[bytes]) -> None:
        self.name = "stdin"
        self._file = file

    def connect(self) -> Iterator[tuple[int, Waveform]]:
        import av

        try:
            unbuffered = os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0)
            container = av.open(unbuffered, metadata_errors="replace", options={"protocol_whitelist": "none"})
        except Exception as error:  # PyAV's errors are OSError and ValueError, and more
            raise AudioError(
                f"{self.name}: is no format that ffmpeg knows ({first_line(error)}); for bare samples add --rate HZ"
            ) from error
        with container, unbuffered:
            stream = container.streams.best("audio")
            if stream is None:
                raise AudioError(f"{self.name}: has no sound")
            yield from _decoded(self.name, container, stream)


def _decoded(name: str, container: Any, stream: Any) -> Iterator[tuple[int, Waveform]]:
    """The stream's frames; damaged packets are left out."""
    mixer = Mixer(name, None)
    try:
        for packet in container.demux(stream):
            frames: list[Any] = []
            with contextlib.suppress(Exception):  # whatever ffmpeg raises on a damaged packet
                frames = packet.decode()
            for frame in frames:
                yield frame.sample_rate, mixer(samples_of(frame))
    except AudioError:
        raise
    except Exception as error:  # the connection broke
        raise AudioError(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What PyAV says, without the address: that may hold a password."""
    return printable(getattr(error, "strerror", None) or type(error).__name__)
