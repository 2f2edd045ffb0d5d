"""MP3: what stands before the first frame, and what the first frame says."""

from __future__ import annotations

import io
from typing import IO

_ID3_HEAD = 10  # bytes
_MAX_TAGS = 100
_INFO_WITHIN = 64  # bytes: an encoder's word on the number of frames follows the first frame's side information


def tags_end(file: IO[bytes]) -> int:
    """The offset behind the ID3v2 tags that a file begins with; they may be longer than the file says to be."""
    end = 0
    for _ in range(_MAX_TAGS):
        file.seek(end)
        head = file.read(_ID3_HEAD)
        if len(head) < _ID3_HEAD or head[:3] != b"ID3" or max(head[6:10]) > 127:
            break
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        end += _ID3_HEAD + size + (_ID3_HEAD if head[5] & 16 else 0)  # a footer repeats the header
    return end


def begins_frame(head: bytes) -> bool:
    """Whether bytes are the begin of an MPEG audio frame, ADTS included."""
    return len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0


def is_free_format(head: bytes) -> bool:
    """Whether the first frame has a bit rate of its own, which ffmpeg cannot decode and libsndfile can."""
    layer_3 = len(head) > 2 and begins_frame(head) and head[1] >> 1 & 3 == 1
    return layer_3 and head[2] >> 4 == 0


def states_frames(file: IO[bytes]) -> bool:
    """Whether the first frame holds the number of frames (the Xing, Info or VBRI header)."""
    file.seek(tags_end(file), io.SEEK_SET)
    head = file.read(_INFO_WITHIN)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    return b"VBRI" in head or (0 <= at <= len(head) - 8 and bool(head[at + 7] & 1))
