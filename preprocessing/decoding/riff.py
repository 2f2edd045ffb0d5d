"""WAV: where the samples are, for headers whose 32-bit sizes cannot say it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, NamedTuple

_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_SUBTYPES = {
    (_PCM, 8): "PCM_U8",
    (_PCM, 16): "PCM_16",
    (_PCM, 24): "PCM_24",
    (_PCM, 32): "PCM_32",
    (_FLOAT, 32): "FLOAT",
    (_FLOAT, 64): "DOUBLE",
    (_ALAW, 8): "ALAW",
    (_ULAW, 8): "ULAW",
}
_WRAP = 2**32
_UNKNOWN = (0, _WRAP - 1, _WRAP - 2)  # sizes that recorders write before they know it
_BEHIND = 2**20  # bytes: more than the chunks behind the samples take
_MAX_CHUNKS = 1000


class WavSamples(NamedTuple):
    """Where a WAV file's samples are, and how to read them.

    Attributes:
        offset, size: bytes in the file.
        declared: bytes that the header says, beyond the file's end if that was cut off, or None if it does not say.
        wrapped: whether the size has more than the header's 32 bits.
        subtype: libsndfile's name of the encoding, or None for one that has no frames of fixed size.
    """

    offset: int
    size: int
    declared: int | None
    wrapped: bool
    rate: int
    channels: int
    frame: int  # bytes
    subtype: str | None


def find_samples(file: IO[bytes]) -> WavSamples | None:
    """The samples of a RIFF/WAVE file; None for other files and for headers without both chunks."""
    end = file.seek(0, io.SEEK_END)
    layout = b""
    for name, offset, size in chunks(file):
        file.seek(offset)
        if name == b"data":
            return _samples(layout, offset, size, end) if len(layout) >= 16 else None
        if name == b"fmt ":
            layout = file.read(min(size, 40))
    return None


def chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of each chunk of a RIFF/WAVE file; none of another file. It may be read in between."""
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return
    begin = len(head)
    for _ in range(_MAX_CHUNKS):
        file.seek(begin)
        chunk = file.read(8)
        if len(chunk) < 8:
            return
        size = int.from_bytes(chunk[4:], "little")
        yield chunk[:4], begin + 8, size
        begin += 8 + size + size % 2


def _samples(layout: bytes, offset: int, size: int, end: int) -> WavSamples:
    tag, channels = int.from_bytes(layout[:2], "little"), int.from_bytes(layout[2:4], "little")
    if tag == _EXTENSIBLE and len(layout) >= 26:
        tag = int.from_bytes(layout[24:26], "little")
    rate, frame = int.from_bytes(layout[4:8], "little"), int.from_bytes(layout[12:14], "little")
    bits = int.from_bytes(layout[14:16], "little")
    subtype = _SUBTYPES.get((tag, bits)) if frame and frame == channels * bits // 8 else None
    present = end - offset
    declared = None if size in _UNKNOWN else size
    wraps = 0 if declared is None else (present - declared) // _WRAP
    wrapped = wraps > 0 and (present - size) % _WRAP < _BEHIND
    if wrapped:
        declared = size + wraps * _WRAP
    wrapped = wrapped or (declared is None and present >= _WRAP)
    return WavSamples(
        offset,
        present if declared is None else min(declared, present),
        declared,
        wrapped,
        rate,
        channels,
        frame,
        subtype,
    )
