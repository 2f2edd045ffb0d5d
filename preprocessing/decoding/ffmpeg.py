"""What ffmpeg decodes (PyAV): MP3, M4A, MP4, WebM, Matroska, MPEG-TS, WMA, ... Its time stamps place the sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from preprocessing.decoding import mp3
from preprocessing.decoding.spans import GAP, AudioError, Findings, Mix, Span, scale

_FIFO_SAMPLES = 2**16  # per channel: ffmpeg's frames of some 20 ms are gathered to blocks of this size
_FROM_ZERO = ("mov,mp4", "matroska", "ogg", "avi")  # formats whose clock begins at zero, not at the first packet
_COUNTED = ("mp3", "aac", "ac3", "eac3", "dts", "truehd", "loas", "amr")  # formats without time stamps
_LATE = 60.0  # s: a stream without a declared end whose clock begins later was cut out of an endless one
_LONGEST = 1e7  # s: larger durations are damage
_HELD_FRAMES = 64  # without a time stamp, until one comes
_AUDIBLE = 1e-4  # of full scale: -80 dB


def decode(name: str, file: IO[bytes], mix: Mix, findings: Findings) -> Iterator[Span]:
    """The best audio track of a file. Raises AudioError if there is none, or not a sample in it."""
    import av

    states_frames = mp3.states_frames(file)
    container = _open(name, file)
    count = len(container.streams.audio)
    track = 0
    if count > 1:
        with container:
            track = _audible_track(container)
        container = _open(name, file)
        findings.say(f"track {track + 1} of {count} was heard")
    with container:
        if not count:
            raise AudioError(f"{name}: has no audio stream; give a file with sound")
        stream = container.streams.audio[track]
        if stream.codec_context is None:
            raise AudioError(f"{name}: its sound is in a format that ffmpeg does not know; convert it to WAV or FLAC")
        if stream.codec_context.name == "flac":
            stream.codec_context.options = {"err_detect": "crccheck+explode"}  # or damage is a burst of noise
        reader = _Reader(container, stream, findings, states_frames)
        fifo, holds, rate = av.AudioFifo(), ("", "", 0), 0
        start: float | None = None
        for frame, time in reader.frames():
            if fifo.samples:
                expected = None if start is None else start + fifo.samples / rate
                jumps = time is not None and (expected is None or abs(time - expected) > GAP / 2)
                if jumps or fifo.samples >= _FIFO_SAMPLES or holds != _holds(frame):
                    yield Span(rate, mix(samples_of(fifo.read())), start)
                    fifo = av.AudioFifo()
            if not fifo.samples:
                holds, rate, start = _holds(frame), frame.sample_rate, time
            frame.pts = None  # the FIFO would refuse gaps
            fifo.write(frame)
        if not fifo.samples:
            raise AudioError(f"{name}: no audio samples can be decoded from it; record or export it again")
        yield Span(rate, mix(samples_of(fifo.read())), start)


def describe(file: IO[bytes]) -> tuple[float | None, int | None]:
    """Seconds and sample rate, Hz, that a file's header tells of its best audio track; None for what it does not."""
    try:
        with _open("", file) as container:
            stream = container.streams.best("audio")
            seconds = container.duration / 1e6 if container.duration else None
            return seconds, (stream.rate or None) if stream else None
    except Exception:  # whatever ffmpeg raises on hostile bytes says: unknown
        return None, None


def _open(name: str, file: IO[bytes]) -> Any:
    import av

    file.seek(0)
    try:
        # no protocols: a playlist in disguise must not open other files or the network
        return av.open(file, metadata_errors="replace", options={"protocol_whitelist": "none"})
    except Exception as error:
        raise AudioError(
            f"{name}: is no audio that libsndfile or ffmpeg can read; convert it to WAV or FLAC"
        ) from error


def _audible_track(container: Any) -> int:
    """The index of the default audio track if it is not silent, else of the first one that is not."""
    streams = list(container.streams.audio)
    best = container.streams.best("audio")
    default = streams.index(best) if best in streams else 0
    audible: list[int] = []
    try:
        for packet in container.demux(streams):
            index = streams.index(packet.stream)
            if index in audible:
                continue
            try:
                heard = any(np.abs(samples_of(frame)).max(initial=0) > _AUDIBLE for frame in packet.decode())
            except Exception:
                continue
            if heard and index == default:
                return default
            if heard:
                audible.append(index)
    except Exception:  # what is left of it was looked at
        pass
    return audible[0] if audible else default


class _Reader:
    """Decodes one stream, with the time of each frame."""

    def __init__(self, container: Any, stream: Any, findings: Findings, states_frames: bool) -> None:
        self._container, self._stream, self._findings = container, stream, findings
        self._tick = float(stream.time_base)
        findings.declared = _declared(container, stream, states_frames)
        self._counted = container.format.name in _COUNTED
        began = (container.start_time or 0) / 1e6
        late = began > (_LATE if findings.declared is None else findings.declared)
        from_zero = container.format.name.startswith(_FROM_ZERO) and not late
        self._origin = 0.0 if from_zero else began
        if findings.declared is not None:
            findings.declared -= self._origin
        self._sizes = [0, 0]  # bytes and number of good packets
        self._lost = 0.0  # s, in packets that were longer than a packet is

    def frames(self) -> Iterator[tuple[Any, float | None]]:
        """(frame, seconds from time zero or None). Frames without a time end where the next one with a time begins."""
        held: list[Any] = []
        timed = False
        for frame in self._decoded():
            if frame.pts is None and timed and len(held) < _HELD_FRAMES:
                held.append(frame)
                continue
            time = None if frame.pts is None else frame.pts * self._tick - self._origin + self._lost
            if held:
                begin = None if time is None else time - sum(other.samples / other.sample_rate for other in held)
                yield held[0], begin
                for other in held[1:]:
                    yield other, None
                held = []
            timed = time is not None
            yield frame, time
        for other in held:
            yield other, None

    def _decoded(self) -> Iterator[Any]:
        """The frames of the packets that can be decoded."""
        findings, damage, any_frames = self._findings, False, False
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except Exception:
                    findings.damaged += 1
                    damage = True
                    self._count_damage(packet)
                    continue
                if self._counted and frames:
                    findings.uncertain |= damage and any_frames
                    damage, any_frames = False, True
                    self._sizes[0] += packet.size
                    self._sizes[1] += 1
                yield from frames
        except Exception:  # from here on the container itself is broken
            findings.damaged += 1

    def _count_damage(self, packet: Any) -> None:
        """Without time stamps ffmpeg counts whatever lies between two packets as one: its size says how many it was."""
        size, count = self._sizes
        if self._counted and size and packet.duration:
            packets = round(packet.size * count / size)
            self._lost += max(packets - 1, 0) * packet.duration * self._tick


def _declared(container: Any, stream: Any, states_frames: bool) -> float | None:
    """Seconds at which the stream ends by the file's own header, or None if that does not say."""
    kind = container.format.name
    states = kind == "flac" or kind.startswith("mov,mp4") or (kind == "mp3" and states_frames)
    if states and stream.duration:
        return ((stream.start_time or 0) + stream.duration) * float(stream.time_base)
    if kind.startswith("matroska"):
        return _tagged_duration(stream) or (
            None if container.streams.video or not container.duration else container.duration / 1e6
        )
    return None


def _tagged_duration(stream: Any) -> float | None:
    """Of Matroska's statistics tags, such as 00:00:14.001000000."""
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        duration = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return None
    return duration if 0 < duration < _LONGEST else None


def _holds(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def samples_of(frame: Any) -> np.ndarray:
    """(samples, channels) float32 of an ffmpeg frame of 8-bit to 64-bit integers or floats, planar or interleaved."""
    if frame.format.name == "s64":  # which PyAV does not convert
        samples: np.ndarray = np.frombuffer(frame.planes[0], np.int64, frame.samples * frame.layout.nb_channels)
    else:
        samples = frame.to_ndarray()
    return scale(samples.T if frame.format.is_planar else samples.reshape(frame.samples, -1))
