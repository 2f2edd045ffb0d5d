"""Time: a sound stands at the time that the file gives it, whatever is missing or damaged before it.

The test sound is a beep in the middle of each second, at a frequency that names the second.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from preprocessing.audio import SAMPLE_RATE, AudioError, Note, iter_audio, read_audio
from preprocessing.decoding import sources
from preprocessing.decoding.riff import find_samples

DATA = Path(__file__).parents[1] / "data"
SECONDS = 12
NEAR = 1.2  # s: beeps closer to damage may be lost: a page of Ogg or a frame of FLAC is lost as a whole
AWAY = 0.06  # s: how far a beep may be from its second


def frequency(second: int) -> float:
    return 400 + 150 * second


@cache
def beeps(rate: int, seconds: int = SECONDS) -> np.ndarray:
    """(samples,) float32; the noise keeps encoders from spending nothing on the time between the beeps."""
    t = np.arange(rate * seconds) / rate
    second = np.floor(t)
    envelope = np.clip((0.2 - np.abs(t - second - 0.5)) / 0.02, 0, 1)
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(t))
    return (0.4 * envelope * np.sin(2 * np.pi * frequency(second) * t) + noise).astype(np.float32)


def heard(samples: np.ndarray) -> list[tuple[int, float]]:
    """(second that a beep names, time of its middle less half a second) of every whole beep."""
    size = SAMPLE_RATE // 50
    frames = samples[: len(samples) // size * size].reshape(-1, size) * np.hanning(size)
    t = np.arange(size) / SAMPLE_RATE
    found = []
    for second in range(SECONDS):
        level = np.abs(frames @ np.exp(-2j * np.pi * frequency(second) * t)) / size
        edges = np.flatnonzero(np.diff(np.concatenate([[0], level > 0.05, [0]]).astype(int)))
        found += [
            (second, (begin + end) / 100 - 0.5)
            for begin, end in edges.reshape(-1, 2).tolist()
            if 15 <= end - begin <= 25
        ]
    return sorted(found, key=lambda beep: beep[1])


def decoded(content: bytes) -> tuple[list[tuple[int, float]], float, Note | None]:
    """Beeps, seconds, and the note."""
    notes: list[Note] = []
    samples = read_audio(content, on_note=notes.append)
    assert len(notes) <= 1
    return heard(samples), len(samples) / SAMPLE_RATE, notes[0] if notes else None


def check(content: bytes, damage: tuple[float, float] | None = None, shift: float = 0.0) -> Note | None:
    """Every beep away from the damage (seconds, from and to) is heard once, at its second + `shift`; none elsewhere."""
    found, _, note = decoded(content)
    begin, end = damage or (99, 99)
    expected = {second for second in range(SECONDS) if not begin - NEAR < second + 0.5 < end + NEAR}
    away = [(second, time) for second, time in found if second in expected]
    assert sorted(second for second, _ in away) == sorted(expected)
    for second, time in away:
        assert time == pytest.approx(second + shift, abs=AWAY)
    return note


def with_soundfile(container: str, subtype: str | None, rate: int) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, subtype, format=container) as out:
        for second in np.array_split(beeps(rate), SECONDS):
            out.write(second)
    return file.getvalue()


def with_ffmpeg(
    container: str,
    codec: str,
    rate: int,
    drop: Callable[[float], bool] = lambda time: False,
    late: float = 0.0,
    video: bool = False,
    options: dict[str, str] | None = None,
    path: Path | None = None,
) -> bytes:
    """Packets whose time `drop` names are left out; all others come `late` seconds later. By way of `path` if given."""
    file = io.BytesIO()
    with av.open(file if path is None else str(path), "w", format=container, options=options or {}) as out:
        packets = []
        if video:
            pictures = out.add_stream("mpeg4", rate=10)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
            for index in range(round(10 * (SECONDS + late))):
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index % 250, np.uint8), format="rgb24")
                packets += pictures.encode(picture)
            packets += pictures.encode(None)
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 96_000
        frame = av.AudioFrame.from_ndarray(beeps(rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        sample_format = stream.codec.audio_formats[0].name
        for part in av.AudioResampler(format=sample_format, layout="mono", rate=rate).resample(frame):
            part.pts = None
            fifo.write(part)
        done, encoded = 0, []
        while chunk := fifo.read(stream.codec_context.frame_size or 1024, partial=True):
            chunk.pts, chunk.time_base, done = done, Fraction(1, rate), done + chunk.samples
            encoded += stream.encode(chunk)
        encoded += stream.encode(None)
        for packet in encoded:
            if not drop(float(packet.pts * packet.time_base)):
                packet.pts += round(late / packet.time_base)
                packet.dts = packet.pts
                packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return file.getvalue() if path is None else path.read_bytes()


def remuxed(content: bytes, container: str, drop: Callable[[float], bool]) -> bytes:
    """The packets of a file whose time `drop` does not name, in another container."""
    file = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(file, "w", format=container) as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None and not drop(float(packet.pts * packet.time_base)):
                packet.stream = stream
                out.mux(packet)
    return file.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "wav": lambda: with_soundfile("WAV", "PCM_16", 32_000),
    "flac": lambda: with_soundfile("FLAC", "PCM_16", 44_100),
    "ogg": lambda: with_soundfile("OGG", "VORBIS", 44_100),
    "opus": lambda: with_soundfile("OGG", "OPUS", 48_000),
    "mp3": lambda: with_ffmpeg("mp3", "libmp3lame", 44_100),
    "mp3 of varying bit rate": lambda: with_soundfile("MP3", None, 44_100),
    "mp3 without a length": lambda: with_ffmpeg("mp3", "libmp3lame", 44_100, options={"write_xing": "0"}),
    "m4a": lambda: with_ffmpeg("ipod", "aac", 44_100),
    "webm": lambda: with_ffmpeg("webm", "libopus", 48_000),
    "mkv": lambda: with_ffmpeg("matroska", "aac", 48_000),
    "mkv of flac": lambda: with_ffmpeg("matroska", "flac", 44_100),
    "ts": lambda: with_ffmpeg("mpegts", "aac", 48_000),
    "ts of mp2": lambda: with_ffmpeg("mpegts", "mp2", 48_000),
}


@cache
def intact(name: str) -> bytes:
    return FILES[name]()


def overwritten(content: bytes, share: float = 0.5, size: int = 3000) -> bytes:
    begin = int(len(content) * share)
    return content[:begin] + np.random.default_rng(0).bytes(size) + content[begin + size :]


@pytest.mark.parametrize("name", FILES)
def test_intact_files(name: str) -> None:
    assert check(intact(name)) is None


@pytest.mark.parametrize("path", sorted(DATA.glob("recordings/*.*g*")), ids=lambda path: path.name)
def test_recordings_have_nothing_to_note(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_audio(path)
    assert caplog.messages == []


def in_a_gap(time: float) -> bool:
    return 4 <= time < 7


def at_the_start(time: float) -> bool:
    return time < 3


LOSSY_MUXES: dict[str, Callable[[Callable[[float], bool]], bytes]] = {
    "m4a": lambda drop: with_ffmpeg("ipod", "aac", 44_100, drop),
    "webm": lambda drop: with_ffmpeg("webm", "libopus", 48_000, drop),
    "webm of vorbis": lambda drop: remuxed(intact("ogg"), "webm", drop),
    "mkv": lambda drop: with_ffmpeg("matroska", "aac", 48_000, drop),
    "mkv of flac": lambda drop: with_ffmpeg("matroska", "flac", 44_100, drop),
    "ogg": lambda drop: remuxed(intact("ogg"), "ogg", drop),
    "opus": lambda drop: with_ffmpeg("ogg", "libopus", 48_000, drop),
    "ts": lambda drop: with_ffmpeg("mpegts", "aac", 48_000, drop),
    "ts of mp2": lambda drop: with_ffmpeg("mpegts", "mp2", 48_000, drop),
}


@pytest.mark.parametrize("name", LOSSY_MUXES)
def test_gaps_in_time_stamps_are_silence(name: str) -> None:
    note = check(LOSSY_MUXES[name](in_a_gap), (4, 7))
    assert note is not None
    assert not note.misplaced
    assert "s are missing at 0:0" in note.text


@pytest.mark.parametrize("name", [name for name in LOSSY_MUXES if not name.startswith("ts")])
def test_first_packets_that_are_missing_are_silence(name: str) -> None:
    """MPEG-TS is left out: its clock has no zero, it begins with the first packet."""
    note = check(LOSSY_MUXES[name](at_the_start), (0, 3))
    assert note == Note("its sound begins at 0:03.0")


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "aac"), ("mov", "aac"), ("matroska", "libopus"), ("mpegts", "aac")]
)
def test_sound_that_begins_later_than_the_picture(container: str, codec: str) -> None:
    note = check(with_ffmpeg(container, codec, 48_000, late=8, video=True), shift=8)
    assert note == Note("its sound begins at 0:08.0")


@pytest.mark.parametrize("name", [name for name in FILES if name != "wav"])
def test_damage_in_the_middle(name: str) -> None:
    """Matroska's sound is lost to the next cluster, 5 s; MP3 counts what is lost by its size."""
    note = check(overwritten(intact(name)), (6, 10 if name.startswith(("mkv", "webm")) else 6.5))
    assert note is not None
    assert note.misplaced == (name == "mp3 without a length")


@pytest.mark.parametrize("name", ["flac", "ogg", "opus", "webm", "mkv", "mkv of flac", "ts", "ts of mp2"])
def test_bytes_that_are_missing_in_the_middle(name: str) -> None:
    content = intact(name)
    length = len(content)
    note = check(content[: length // 2] + content[length // 2 + length // 6 :], (6, 10 if name[0] in "mw" else 8))
    assert note is not None
    assert not note.misplaced


@pytest.mark.parametrize("name", ["mp3", "mp3 of varying bit rate", "mp3 without a length"])
def test_loss_of_unknown_length_is_told(name: str) -> None:
    """An MP3 file has no time stamps: that bytes are missing in its middle shows in its length at most."""
    content = intact(name)
    found, _, note = decoded(content[: len(content) // 2] + content[len(content) * 2 // 3 :])
    assert (11, pytest.approx(9, abs=0.1)) in found
    assert note is not None
    assert note.misplaced
    assert "times after the damage may be too early" in note.text


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("m4a", "mp3 without a length")])
def test_truncated_files(name: str) -> None:
    """The start is where it was, and the note compares with the declared length; MPEG-TS declares none."""
    note = check(intact(name)[: len(intact(name)) * 2 // 3], (7.5, 12))
    if name.startswith("ts"):
        return
    assert note is not None
    assert not note.misplaced
    assert ("no end mark" if name in ("ogg", "opus") else "s of the declared 12.0 s can be decoded") in note.text


def test_a_truncated_movie(tmp_path: Path) -> None:
    """With its index at the start, an MP4 file says how long it was."""
    content = with_ffmpeg("mp4", "aac", 44_100, options={"movflags": "faststart"}, path=tmp_path / "movie.mp4")
    note = check(content[: len(content) * 2 // 3], (7.5, 12))
    assert note is not None
    assert "s of the declared 12.0 s can be decoded" in note.text


@pytest.mark.parametrize("name", ["ogg", "opus", "ogg of flac"])
def test_every_link_of_a_chain_is_heard(name: str) -> None:
    """Three joined streams, the middle one at another rate."""
    first = with_ffmpeg("ogg", "flac", 44_100) if name == "ogg of flac" else intact(name)
    found, seconds, note = decoded(first + with_soundfile("OGG", "VORBIS", 32_000) + first)
    assert seconds == pytest.approx(3 * SECONDS, abs=0.01)
    assert [second for second, _ in found] == 3 * list(range(SECONDS))
    for index, (_, time) in enumerate(found):
        assert time == pytest.approx(index, abs=AWAY)
    assert note is None


def test_damage_in_a_link_moves_no_other() -> None:
    found, _, note = decoded(intact("ogg") + overwritten(intact("opus"), 0.3) + intact("ogg"))
    assert [beep for beep in found if beep[1] > 23.5] == [
        (second, pytest.approx(24 + second, abs=AWAY)) for second in range(SECONDS)
    ]
    assert note is not None
    assert "are missing at 0:1" in note.text


def test_a_recording_out_of_an_endless_stream_begins_at_once() -> None:
    """Its header, then pages from an hour later: an hour of silence would help nobody."""
    content = bytearray(intact("opus"))
    begin = content.index(b"OggS", content.index(b"OpusTags"))
    shifted = remap_granules(bytes(content[begin:]), 3600 * 48_000)
    note = check(bytes(content[:begin]) + shifted)
    assert note == Note("its own clock begins at 3600 s; times are counted from its first sound")


def remap_granules(pages: bytes, offset: int) -> bytes:
    """Ogg pages with `offset` added to their granule positions and with new checksums."""
    result = []
    for part in pages.split(b"OggS")[1:]:
        page = bytearray(b"OggS" + part)
        granule = int.from_bytes(page[6:14], "little", signed=True)
        page[6:14] = (granule + offset).to_bytes(8, "little", signed=True)
        page[22:26] = bytes(4)
        page[22:26] = ogg_checksum(page).to_bytes(4, "little")
        result.append(bytes(page))
    return b"".join(result)


def ogg_checksum(page: bytes | bytearray) -> int:
    """By the letter of RFC 3533, bit by bit."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


def test_time_stamps_that_cannot_be_are_not_believed() -> None:
    """One cluster of a Matroska file says that it is days later: no days of silence, but a word."""
    content = bytearray(intact("mkv"))
    cluster = content.index(b"\x1f\x43\xb6\x75", len(content) // 3)
    at = content.index(b"\xe7", cluster) + 1
    assert content[at] == 0x82  # a time stamp of two bytes, milliseconds
    content[at + 1] |= 0x80
    found, seconds, note = decoded(bytes(content))
    assert seconds < 2 * SECONDS
    assert len(found) > SECONDS / 2
    assert note is not None
    assert note.misplaced
    assert "time stamps jump by +" in note.text


def with_damaged_time_stamp(content: bytes, share: float, bit: int) -> bytes:
    """An MPEG-TS file with one bit of the audio's time stamp flipped, in the first packet after a share of the file."""
    at = content.index(b"\x00\x00\x01\xc0", int(len(content) * share))
    assert content[at + 7] & 0x80  # it has one
    damaged = bytearray(content)
    stamp = bytearray(content[at + 9 : at + 14])
    value = (stamp[0] >> 1 & 7) << 30 | stamp[1] << 22 | (stamp[2] >> 1) << 15 | stamp[3] << 7 | stamp[4] >> 1
    value ^= 1 << bit
    stamp[0] = stamp[0] & 0xF1 | (value >> 30 & 7) << 1
    stamp[1], stamp[2] = value >> 22 & 255, (value >> 15 & 127) << 1 | 1
    stamp[3], stamp[4] = value >> 7 & 255, (value & 127) << 1 | 1
    damaged[at + 9 : at + 14] = stamp
    return bytes(damaged)


@pytest.mark.parametrize("bit", [18, 22, 25, 30])
def test_a_damaged_time_stamp_moves_nothing(bit: int) -> None:
    """Ahead or back by 3 s to 3 h: what follows does not follow on it."""
    assert check(with_damaged_time_stamp(intact("ts of mp2"), 0.5, bit), (6, 6.2)) is None


def wrapped_wav(path: Path, channels: int, extra: int) -> np.ndarray:
    """A sparse 64-bit float WAV of 4 GiB and `extra` frames, beeps at its end, the header's sizes modulo 4 GiB."""
    frame = 8 * channels
    frames = 2**32 // frame + extra
    size = frames * frame
    layout = [
        b"RIFF" + ((size + 36) % 2**32).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little"),
        (3).to_bytes(2, "little") + channels.to_bytes(2, "little") + (32_000).to_bytes(4, "little"),
        (32_000 * frame % 2**32).to_bytes(4, "little") + frame.to_bytes(2, "little") + (64).to_bytes(2, "little"),
        b"data" + (size % 2**32).to_bytes(4, "little"),
    ]
    sound = beeps(32_000)[:extra]
    with path.open("wb") as file:
        file.write(b"".join(layout))
        file.seek(size - extra * frame, os.SEEK_CUR)
        file.write(np.repeat(sound.astype(np.float64)[:, None], channels, 1).tobytes())
    return sound


def test_sizes_of_a_wav_file_that_have_wrapped(tmp_path: Path) -> None:
    """With and without what recorders write behind the samples; a size of zero was never filled in."""
    path = tmp_path / "long.wav"
    wrapped_wav(path, 1, 96_000)
    size = 2**32 + 96_000 * 8
    for behind, claim in ((b"", None), (b"LIST" + (20).to_bytes(4, "little") + bytes(20), None), (b"", 0)):
        with path.open("r+b") as file:
            if claim is not None:
                file.seek(40)
                file.write(claim.to_bytes(4, "little"))
            file.truncate(44 + size)
            file.seek(0, os.SEEK_END)
            file.write(behind)
            found = find_samples(file)
        assert found is not None
        assert (found.offset, found.size, found.wrapped) == (44, size, True)


@pytest.mark.slow
def test_wav_whose_sizes_have_wrapped(tmp_path: Path) -> None:
    """4 GiB and 3 s, of which the header says 3 s. 64 channels, so that its 8 million frames are quickly read."""
    path = tmp_path / "long.wav"
    sound = wrapped_wav(path, 64, 96_000)
    notes: list[Note] = []
    samples, tail = 0, np.empty(0, np.float32)
    for block in iter_audio(path, 60, on_note=notes.append):
        samples += len(block)
        tail = np.concatenate([tail, block])[-96_000:]
    assert samples == 2**32 // 512 + 96_000
    np.testing.assert_allclose(tail, sound, rtol=0, atol=1e-6)
    assert notes == []


def test_a_tag_before_the_sound_of_a_wav_or_flac_file() -> None:
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 4, 0]) + bytes(512)
    for name in ("wav", "flac", "ogg"):
        np.testing.assert_array_equal(read_audio(tag + intact(name)), read_audio(intact(name)))
        np.testing.assert_array_equal(read_audio(tag + tag + intact(name)), read_audio(intact(name)))
    assert check(tag + intact("mp3")) is None


def test_an_mp3_file_of_free_format() -> None:
    """A second out of a file that LAME made with --freeformat; ffmpeg cannot decode it."""
    samples = read_audio(DATA / "free_format.mp3")
    assert len(samples) / SAMPLE_RATE == pytest.approx(1, abs=0.1)
    assert np.sqrt(np.mean(samples**2)) > 0.01


@pytest.mark.parametrize("name", ["ogg", "m4a", "wav"])
def test_a_long_pipe_is_kept_on_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_IN_MEMORY", 10_000)
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(intact(name),))
    writer.start()
    samples = read_audio(fifo)
    writer.join()
    np.testing.assert_array_equal(samples, read_audio(intact(name)))
    np.testing.assert_array_equal(read_audio(io.BytesIO(intact(name))), samples)


# channels and tracks -------------------------------------------------------------------------------------------------


def stereo(left: np.ndarray, right: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.stack([left, right], 1), 32_000, "FLOAT", format="WAV")
    return file.getvalue()


def test_channels_that_cancel_each_other() -> None:
    """The louder channel, with a word; with a little noise on one channel just so."""
    sound = beeps(32_000)
    for right in (-sound, -0.9 * sound, -0.99 * sound + 0.001 * np.random.default_rng(1).standard_normal(len(sound))):
        notes: list[Note] = []
        np.testing.assert_array_equal(read_audio(stereo(sound, right), on_note=notes.append), sound)
        assert notes == [Note("its channels cancel each other in the mix; channel 1 was heard instead")]
    np.testing.assert_array_equal(read_audio(stereo(0.9 * sound, -sound)), -sound)


def test_channels_that_do_not_cancel_are_averaged(caplog: pytest.LogCaptureFixture) -> None:
    sound, noise = beeps(32_000), 0.1 * np.random.default_rng(1).standard_normal(32_000 * SECONDS).astype(np.float32)
    for left, right in ((sound, noise), (sound, 0 * sound), (sound, -0.5 * sound), (0 * sound, 0 * sound)):
        np.testing.assert_allclose(read_audio(stereo(left, right)), (left + right) / 2, rtol=0, atol=1e-7)
    assert caplog.messages == []


def test_one_channel() -> None:
    left, right = beeps(32_000), 0.5 * np.roll(beeps(32_000), 9)
    content = stereo(left, right)
    for channel, expected in ((1, left), ("left", left), (2, right), ("right", right), ("2", right)):
        np.testing.assert_array_equal(read_audio(content, channel=channel), expected)
    with pytest.raises(AudioError, match="has no channel 3, its last one is 2"):
        read_audio(content, channel=3)
    for channel in ("middle", 0, -1, "1.5"):
        with pytest.raises(ValueError, match="channel must be mix, left, right or a number from 1"):
            read_audio(content, channel=channel)


def with_tracks(container: str, tracks: list[np.ndarray]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        streams = [out.add_stream("aac", rate=48_000, layout="mono") for _ in tracks]
        for stream, track in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray(track[None], format="fltp", layout="mono")
            frame.sample_rate = 48_000
            fifo = av.AudioFifo()
            fifo.write(frame)
            while chunk := fifo.read(1024, partial=True):
                out.mux(stream.encode(chunk))
            out.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_tracks(container: str) -> None:
    """The default track, unless it is silent throughout: then the first one that is not."""
    sound = beeps(48_000)
    silence = np.zeros_like(sound)
    one_beep = np.where(np.arange(len(sound)) > 11 * 48_000, sound, 0).astype(np.float32)
    for tracks, number in (
        ([silence, sound], 2),
        ([silence, silence, sound], 3),
        ([sound, one_beep], 1),
        ([one_beep, sound], 1),
        ([silence, silence], 1),
    ):
        found, _, note = decoded(with_tracks(container, tracks))
        assert note == Note(f"track {number} of {len(tracks)} was heard")
        assert (11 in [second for second, _ in found]) == bool(tracks[number - 1].any())
