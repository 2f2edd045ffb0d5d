"""A folder of files that are not what they seem, by what is wrong with them. Made here: nothing binary is kept."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from tests.conftest import RECORDINGS

RATE = 32_000
FINE, FAILS = True, False  # whether there is something to tag


def tone(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def wav(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> None:
    soundfile.write(path, samples, rate, subtype, format="WAV")


def header(path: Path, **fields: int) -> None:
    """A WAV file whose header says what `fields` say."""
    values = {"format": 1, "channels": 1, "rate": RATE, "bits": 16, "size": 64_000} | fields
    align = values["channels"] * values["bits"] // 8
    chunk = struct.pack("<HHIIHH", values["format"], values["channels"], values["rate"], 0, align, values["bits"])
    data = b"data" + struct.pack("<I", values["size"]) + bytes(64_000)
    path.write_bytes(b"RIFF" + struct.pack("<I", 64_036) + b"WAVEfmt " + struct.pack("<I", 16) + chunk + data)


def cut(source: str, keep: float) -> Callable[[Path], None]:
    content = (RECORDINGS / source).read_bytes()
    return lambda path: path.write_bytes(content[: round(len(content) * keep)]) and None


def nan_in_the_middle(path: Path) -> None:
    samples = tone(3)
    samples[50_000] = np.nan
    wav(path, samples, subtype="FLOAT")


BAD_INPUTS: dict[str, tuple[Callable[[Path], object], bool]] = {
    "missing.wav": (lambda path: None, FAILS),
    "empty.wav": (lambda path: path.touch(), FAILS),
    "one_byte.wav": (lambda path: path.write_bytes(b"R"), FAILS),
    "text.wav": (lambda path: path.write_text("This is not a sound.\n" * 100), FAILS),
    "web_page.mp3": (lambda path: path.write_text("<!DOCTYPE html><html>404 Not Found</html>"), FAILS),
    "json.flac": (lambda path: path.write_text('{"error": "no such clip"}'), FAILS),
    "playlist.m3u8.wav": (lambda path: path.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"), FAILS),
    "zeros.wav": (lambda path: path.write_bytes(bytes(10_000)), FAILS),
    "random.mp3": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(20_000)), None),  # type: ignore[dict-item]
    "picture.wav": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), FAILS),
    "folder.wav": (lambda path: path.mkdir(), FAILS),
    "unreadable.wav": (lambda path: (wav(path, tone()), path.chmod(0)), FAILS),
    "dangling_link.wav": (lambda path: path.symlink_to(path.with_name("nowhere")), FAILS),
    "link_to_itself.wav": (lambda path: path.symlink_to(path), FAILS),
    "device.wav": (lambda path: path.symlink_to("/dev/zero"), FAILS),
    "header_only.wav": (lambda path: wav(path, np.zeros(0)), FAILS),
    "header_cut.wav": (lambda path: path.write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt "), FAILS),
    "zero_channels.wav": (lambda path: header(path, channels=0), FAILS),
    "zero_rate.wav": (lambda path: header(path, rate=0), FAILS),
    "huge_rate.wav": (lambda path: header(path, rate=2**31 - 1), FAILS),
    "unknown_codec.wav": (lambda path: header(path, format=0x1234), FAILS),
    "size_too_large.wav": (lambda path: header(path, size=2**32 - 1), FINE),
    "nan.wav": (lambda path: wav(path, np.full(RATE, np.nan), subtype="FLOAT"), FAILS),
    "nan_in_the_middle.wav": (nan_in_the_middle, FAILS),
    "infinite.wav": (lambda path: wav(path, np.full(RATE, np.inf), subtype="FLOAT"), FAILS),
    "huge_values.wav": (lambda path: wav(path, 1e30 * tone(), subtype="DOUBLE"), FAILS),
    "truncated.wav": (cut("thunder.wav", 0.5), FINE),
    "truncated.ogg": (cut("helicopter.ogg", 0.6), FINE),
    "truncated.mp3": (cut("air_raid_siren.mp3", 0.4), FINE),
    "silent.wav": (lambda path: wav(path, np.zeros(RATE)), FINE),
    "one_sample.wav": (lambda path: wav(path, np.full(1, 0.5)), FINE),
    "a_tenth_of_a_second.wav": (lambda path: wav(path, tone(0.1)), FINE),
    "constant.wav": (lambda path: wav(path, np.ones(RATE)), FINE),
    "clipped.wav": (lambda path: wav(path, 100 * tone(), subtype="FLOAT"), FINE),
    "1_khz.wav": (lambda path: wav(path, tone(1, 1_000), 1_000), FINE),
    "192_khz.wav": (lambda path: wav(path, tone(1, 192_000), 192_000), FINE),
    "9_channels.wav": (lambda path: wav(path, np.stack([tone()] * 9, 1)), FINE),
    "8_bit.wav": (lambda path: wav(path, tone(), subtype="PCM_U8"), FINE),
    "very_long.flac": (lambda path: soundfile.write(path, np.zeros(120 * RATE, np.int16), RATE), FINE),
    "wrong_suffix.mp3": (lambda path: wav(path, tone()), FINE),
    "SHOUTING.WAV": (lambda path: wav(path, tone()), FINE),
    'new\nline, tab\tand "quotes".wav': (lambda path: wav(path, tone()), FINE),
    "ünïcödé 音 🐓.wav": (lambda path: wav(path, tone()), FINE),
    "-dash.wav": (lambda path: wav(path, tone()), FINE),
    "[brackets]*.wav": (lambda path: wav(path, tone()), FINE),
    "n" * 200 + ".wav": (lambda path: wav(path, tone()), FINE),
}
