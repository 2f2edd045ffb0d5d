"""What libsndfile decodes: WAV, FLAC, Ogg, AIFF, AU, CAF, ... It keeps no time stamps; headers and pages do."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from preprocessing.decoding.ranges import Ranges
from preprocessing.decoding.riff import WavSamples
from preprocessing.decoding.spans import Findings, Mix, Span

BLOCK_SAMPLES = 2**19  # decoded at once, over all channels: 16 s of mono at 32 kHz, 2 MB


def decode(file: IO[bytes], mix: Mix, findings: Findings) -> Iterator[Span]:
    """The samples of a file that stands at its begin."""
    with _open(file) as sound:
        declared = sound.frames / sound.samplerate
        if declared < 1e9:  # libsndfile's word for unknown is 2^63 frames
            findings.declared = declared
        yield from _spans(sound, mix)


def decode_wav(file: IO[bytes], samples: WavSamples, mix: Mix, findings: Findings) -> Iterator[Span]:
    """A WAV file, checked against its header."""
    bytes_a_second = samples.rate * samples.frame
    if samples.declared is not None and samples.subtype is not None and bytes_a_second:
        findings.declared = samples.declared / bytes_a_second
    file.seek(0)
    if not samples.wrapped or samples.subtype is None:
        with _open(file) as sound:
            yield from _spans(sound, mix)
        return
    data: Any = Ranges(file, [(samples.offset, samples.offset + samples.size)])
    layout = {"samplerate": samples.rate, "channels": samples.channels, "subtype": samples.subtype}
    with _open(data, format="RAW", endian="LITTLE", **layout) as sound:
        yield from _spans(sound, mix, samples.size // samples.frame)


def _open(file: IO[bytes], **layout: Any) -> Any:
    import soundfile

    # a descriptor instead of the path: libsndfile then looks at the content alone, not at the file's extension
    descriptor = file.fileno() if isinstance(file, io.FileIO) else None
    return soundfile.SoundFile(file if descriptor is None else descriptor, closefd=False, **layout)


def _spans(sound: Any, mix: Mix, frames: int | None = None) -> Iterator[Span]:
    size = max(BLOCK_SAMPLES // sound.channels, 1)
    while True:
        count = size if frames is None else min(size, frames)
        block = sound.read(count, dtype="float32", always_2d=True) if count else np.empty((0, 1), np.float32)
        if not len(block):
            return
        if frames is not None:
            frames -= len(block)
        yield Span(sound.samplerate, mix(block))
