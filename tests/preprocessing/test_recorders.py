"""The start of a recording, from what recorders write into files and names."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from preprocessing.decoding.riff import find_samples
from preprocessing.recorders import start_time


def wav(path: Path, *chunks: tuple[bytes, bytes], before: bool = False) -> Path:
    """A WAV file with further chunks before or behind its samples."""
    soundfile.write(path, np.zeros(800), 8000)
    content = path.read_bytes()
    more = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    at = 36 if before else len(content)  # behind "fmt "
    content = content[:at] + more + content[at:]
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert len(soundfile.read(path)[0]) == 800
    return path


def bext(date: bytes, time: bytes) -> bytes:
    return bytes(320) + date + time + bytes(264)


def comment(text: bytes) -> bytes:
    return b"INFOICMT" + struct.pack("<I", len(text)) + text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20230101_123000.WAV", "2023-01-01T12:30:00"),  # AudioMoth
        ("20230101_123000T.WAV", "2023-01-01T12:30:00"),
        ("SM4_20230101_123000.wav", "2023-01-01T12:30:00"),  # Song Meter
        ("S4A01234_20230101$123000.wav", "2023-01-01T12:30:00"),
        ("SMA00001_20230101_123000_000.wav", "2023-01-01T12:30:00"),
        ("20230101T123000+1030_Site-3.flac", "2023-01-01T12:30:00+10:30"),  # BAR-LT
        ("20230101T123000Z.ogg", "2023-01-01T12:30:00+00:00"),
        ("20231301_123000.wav", None),
        ("20230101_253000.wav", None),
        ("00000101_000000.wav", None),
        ("120230101_123000.wav", None),
        ("20230101_1230001.wav", None),
        ("dawn.wav", None),
    ],
)
def test_names(name: str, expected: str | None, tmp_path: Path) -> None:
    for path in (Path("missing") / name, tmp_path / name):
        (tmp_path / name).touch()
        time = start_time(path)
        assert (time and time.isoformat()) == expected


@pytest.mark.parametrize("before", [True, False])
def test_metadata_goes_before_the_name(before: bool, tmp_path: Path) -> None:
    path = tmp_path / "SM4_20200101_000000.wav"
    guano = b"GUANO|Version:1.0\nMake:Open\nTimestamp: 2023-01-01T12:30:00-05:00\nTE:1\n"
    moth = comment(b"Recorded at 12:30:00 01/02/2023 (UTC+2) by AudioMoth 24F319055FDF2460\0")
    chunks = [(b"bext", bext(b"2023-03-01", b"12:30:00")), (b"LIST", moth), (b"guan", guano)]
    expected = ["2023-03-01T12:30:00", "2023-02-01T12:30:00+02:00", "2023-01-01T12:30:00-05:00"]
    for count, wanted in enumerate(expected, 1):
        time = start_time(wav(path, *chunks[:count], before=before))
        assert time is not None
        assert time.isoformat() == wanted


@pytest.mark.parametrize(
    ("zone", "expected"), [(b"UTC", "+00:00"), (b"UTC-3:30", "-03:30"), (b"UTC+5:45", "+05:45"), (b"UTC-10", "-10:00")]
)
def test_time_zones_of_audiomoth(zone: bytes, expected: str, tmp_path: Path) -> None:
    text = b"Recorded at 01:02:03 04/05/2022 (" + zone + b") by AudioMoth"
    time = start_time(wav(tmp_path / "a.wav", (b"LIST", comment(text)), before=True))
    assert time is not None
    assert time.isoformat() == f"2022-05-04T01:02:03{expected}"


@pytest.mark.parametrize(
    "chunk",
    [
        (b"guan", b"Timestamp: soon\n"),
        (b"guan", b"Timestamp: 2023-01-01T12:30:00\xff\n"),
        (b"guan", b"Timestamp: 1970-01-01T00:00:00Z\n"),  # a clock that was never set
        (b"bext", b"short"),
        (b"bext", bext(b"0000-00-00", b"00:00:00")),
        (b"LIST", comment(b"Recorded at 12:30:00 45/02/2023 (UTC+99) by AudioMoth")),
    ],
)
def test_damaged_metadata_says_nothing(chunk: tuple[bytes, bytes], tmp_path: Path) -> None:
    assert start_time(wav(tmp_path / "a.wav", chunk)) is None
    time = start_time(wav(tmp_path / "20230101_123000.wav", chunk))
    assert time is not None
    assert time.year == 2023


def test_chunks_before_the_samples_are_passed_over(tmp_path: Path) -> None:
    path = wav(tmp_path / "a.wav", (b"junk", b"odd"), (b"bext", bext(b"2023-03-01", b"12:30:00")), before=True)
    with path.open("rb") as file:
        samples = find_samples(file)
    assert samples is not None
    assert (samples.rate, samples.size, samples.subtype) == (8000, 1600, "PCM_16")
