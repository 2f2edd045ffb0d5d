"""Which parts of a sound file become clips of an HDF5 file, decoded and encoded as it stores them."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from preprocessing.audio import SAMPLE_RATE, AudioError, iter_audio
from preprocessing.clips.layout import CLIP_SAMPLES, to_int16
from preprocessing.clips.writer import encode
from preprocessing.decoding.spans import Waveform

CLIP_SECONDS = CLIP_SAMPLES / SAMPLE_RATE
FIRST, ALL = "first", "all"
Part: TypeAlias = str | tuple[float, float]
"""FIRST: the first 10 s. ALL: as many clips as there are. (start, end): this segment, in seconds, of longer files."""

CUT, SEGMENT, SHORTENED = "cut", "segment", "shortened"
SPOOL = "clips-"  # begins the names of the files that hold the clips of long recordings for a while
_SPARE = SAMPLE_RATE  # samples that a file may have beyond a segment and still be that segment alone
_LEAST_REST = SAMPLE_RATE // 10  # samples: a shorter rest is no clip, as it is no window for dcls-tag

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """The clips of one file, as HDF5 chunks: one is held here, several lie one after another in the file `spool`.

    Attributes:
        starts, lengths: of each clip in the file and without padding, in samples.
        sizes: of the chunks, in bytes.
        change: CUT into several clips, a SEGMENT taken out, SHORTENED to the first 10 s, or "".
    """

    starts: list[int]
    lengths: list[int]
    sizes: list[int]
    chunk: bytes = b""
    spool: str = ""
    change: str = ""

    def chunks(self) -> Iterator[bytes]:
        """One after another."""
        if not self.spool:
            yield self.chunk
            return
        with Path(self.spool).open("rb") as file:
            for size in self.sizes:
                yield file.read(size)

    def remove_spool(self) -> None:
        if self.spool:
            Path(self.spool).unlink(missing_ok=True)


def decode_excerpts(source: str | Path | bytes, part: Part, compression: str | None, folder: str) -> Decoded:
    """The clips that `part` of a source is made into. Memory does not grow with its length.

    Args:
        folder: where a spool goes.

    Raises AudioError for what cannot be decoded, OSError (ENOSPC, EDQUOT) for a full disk.
    """
    if part == ALL:
        clips = cut(source)
        first, second = next(clips), next(clips, None)
        if second is not None:
            return _spooled(chain([first, second], clips), compression, folder)
        waveform, change = first[1], ""
    else:
        waveform, change = first_clip(source) if isinstance(part, str) else segment(source, *part)
    chunk = encode(padded(waveform), compression)
    return Decoded([0], [len(waveform)], [len(chunk)], chunk, change=change)


def first_clip(source: str | Path | bytes) -> tuple[Waveform, str]:
    """The first 10 s of a source, and SHORTENED if over a second more follows. Raises AudioError."""
    blocks = iter_audio(source, CLIP_SECONDS)
    first, rest = next(blocks), _after(blocks)
    return first, SHORTENED if rest > _SPARE else ""


def segment(source: str | Path | bytes, start: float, end: float) -> tuple[Waveform, str]:
    """The samples from `start` to `end` seconds of a source, 10 s at most, and SEGMENT.

    A source that is no longer than the segment, by up to a second, is the segment itself. Of one that is longer, but
    ends before `start`, come the first 10 s, and SHORTENED. Raises AudioError.
    """
    first, last = round(start * SAMPLE_RATE), round(min(end, start + CLIP_SECONDS) * SAMPLE_RATE)
    opening, taken, position = np.empty(0, np.float32), [], 0
    for block in iter_audio(source, CLIP_SECONDS):
        opening = opening if position else block
        taken.append(block[max(first - position, 0) : max(last - position, 0)])
        position += len(block)
        if position >= last and position > last - first + _SPARE:
            break
    if position <= last - first + _SPARE:
        return opening, ""
    if position <= first + _LEAST_REST:
        return opening, SHORTENED
    return np.concatenate(taken), SEGMENT


def cut(source: str | Path | bytes) -> Iterator[tuple[int, Waveform]]:
    """(first sample, samples) of each clip of 10 s; the last one ends with the source and overlaps the one before.

    A source of up to 10 s is one clip. Raises AudioError before the first clip; after it the error is logged, and the
    clips so far are all.
    """
    before, start = np.empty(0, np.float32), 0
    try:
        for block in iter_audio(source, CLIP_SECONDS):
            if len(block) == CLIP_SAMPLES or not start:
                yield start, block
            elif len(block) > _LEAST_REST:
                yield start + len(block) - CLIP_SAMPLES, np.concatenate([before[len(block) :], block])
            before, start = block, start + len(block)
    except AudioError as error:
        if not start:
            raise
        _log.warning("%s; only its first %.0f s are used", error, start / SAMPLE_RATE)


def padded(waveform: Waveform) -> npt.NDArray[np.int16]:
    """Up to 10 s as int16 (320000,), zeros at the end."""
    clip = np.zeros(CLIP_SAMPLES, np.int16)
    clip[: len(waveform)] = to_int16(waveform)
    return clip


def is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _spooled(clips: Iterable[tuple[int, Waveform]], compression: str | None, folder: str) -> Decoded:
    descriptor, spool = tempfile.mkstemp(prefix=SPOOL, dir=folder)
    starts, lengths, sizes = [], [], []
    try:
        with os.fdopen(descriptor, "wb") as file:
            for start, waveform in clips:
                sizes.append(file.write(encode(padded(waveform), compression)))
                starts.append(start)
                lengths.append(len(waveform))
    except BaseException:
        Path(spool).unlink(missing_ok=True)
        raise
    return Decoded(starts, lengths, sizes, spool=spool, change=CUT)


def _after(blocks: Iterator[Waveform]) -> int:
    """Samples of the next block; what cannot be decoded of it has none."""
    try:
        return len(next(blocks, ()))
    except AudioError:
        return 0
