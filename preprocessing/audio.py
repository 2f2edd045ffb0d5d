"""Decoding: any audio file -> a mono float32 waveform at 32 kHz.

libsndfile decodes what it can (WAV, FLAC, Ogg, Opus, AIFF, AU, CAF, ...), PyAV (ffmpeg inside its wheel) the rest (MP3,
M4A, MP4, WebM, WMA, ...). Channels are averaged, then soxr resamples. Everything streams: `read_audio` joins the blocks
that `iter_audio` gives. PyAV and soxr are imported when a file needs them, torch never.
"""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from preprocessing.constants import SAMPLE_RATE

MIN_FILE_RATE, MAX_FILE_RATE = 1_000, 768_000  # Hz; outside of it a header is damaged
MAX_AMPLITUDE = 2.0**32  # floats on an int32 scale pass; larger ones are no audio and overflow a power spectrum
_BLOCK_SAMPLES = 2**19  # decoded at once, over all channels: 16 s of mono at 32 kHz, 2 MB
_FIFO_SAMPLES = 2**16  # per channel: ffmpeg's frames of some 20 ms are gathered to blocks of this size

Waveform: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Source: TypeAlias = str | os.PathLike[str] | IO[bytes] | bytes | bytearray | memoryview

_log = logging.getLogger(__name__)


class AudioError(ValueError):
    """A source that gives no waveform. The message is one line: the source's name, what is wrong, what to do."""


def read_audio(source: Source, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """The whole of an audio source as a mono waveform: (samples,) float32, full scale is [-1, 1].

    Args:
        source: a path, the bytes of a file, or a binary file object (read from where it stands to its end).
        sample_rate: of the result, Hz.

    The mean over the channels, then soxr's HQ resampling (20-bit accuracy). Floats beyond full scale are kept. Of a
    truncated or damaged file comes what decodes; a warning is logged where the decoder tells of the damage.

    Raises AudioError if the source is missing, no audio, without a single sample, at a rate outside of 1 to 768 kHz, or
    holds NaN or infinite samples.
    """
    blocks = list(_resampled_blocks(source, sample_rate))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def iter_audio(source: Source, block_seconds: float, sample_rate: int = SAMPLE_RATE) -> Iterator[Waveform]:
    """Blocks of `block_seconds` of an audio source, the last one shorter: joined they equal `read_audio(source)`.

    Memory is constant however long the file at a path is (file objects are read into memory as a whole). Raises as
    `read_audio` does, at the block where the trouble lies.
    """
    size = round(block_seconds * sample_rate)
    if size < 1:
        raise ValueError(f"block_seconds must hold at least one sample, not {block_seconds}")
    return _rebuffer(_resampled_blocks(source, sample_rate), size)


def _rebuffer(blocks: Iterator[Waveform], size: int) -> Iterator[Waveform]:
    """The same samples in blocks of `size`, the last one shorter."""
    pending: list[Waveform] = []
    count = 0
    for block in blocks:
        pending.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(pending)
            whole = count - count % size
            yield from joined[:whole].reshape(-1, size)
            pending, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(pending)


def _resampled_blocks(source: Source, sample_rate: int) -> Iterator[Waveform]:
    """Non-empty blocks at `sample_rate`; at least one, or AudioError."""
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive, not {sample_rate}")
    name, file = _open(source)
    with file:
        empty = True
        for block in _resample(_checked(name, _decode(name, file)), sample_rate):
            if len(block):
                empty = False
                yield block
    if empty:
        raise AudioError(f"{name}: no audio samples can be decoded from it; record or export it again")


def _resample(blocks: Iterator[tuple[int, Waveform]], sample_rate: int) -> Iterator[Waveform]:
    """(rate, block) pairs -> blocks at `sample_rate`, with one resampler for each stretch of the same rate."""
    resampler: Any = None
    resampler_rate = sample_rate
    for rate, block in blocks:
        if rate != resampler_rate:  # a chained stream may change its rate midway
            if resampler is not None:
                yield resampler.resample_chunk(block[:0], last=True)
                resampler = None
            if rate != sample_rate:
                import soxr

                resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
            resampler_rate = rate
        yield block if resampler is None else resampler.resample_chunk(block)
    if resampler is not None:
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def _checked(name: str, blocks: Iterator[tuple[int, Waveform]]) -> Iterator[tuple[int, Waveform]]:
    """The same blocks, with AudioError at a sample rate or at samples that cannot be audio."""
    for rate, block in blocks:
        if not MIN_FILE_RATE <= rate <= MAX_FILE_RATE:
            raise AudioError(
                f"{name}: its header says {rate} Hz, not {MIN_FILE_RATE} to {MAX_FILE_RATE} Hz; correct the header"
            )
        peak = np.maximum(block.max(initial=0), -block.min(initial=0))  # both pass NaN on
        if not peak <= MAX_AMPLITUDE:
            found = f"samples of {peak:.3g} times full scale" if np.isfinite(peak) else "NaN or infinite samples"
            raise AudioError(f"{name}: holds {found}; repair it in an audio editor or export it again")
        yield rate, block


def _decode(name: str, file: IO[bytes]) -> Iterator[tuple[int, Waveform]]:
    """(sample rate, mono block) pairs from the first decoder that reads the file."""
    head = file.read(3)
    file.seek(0)
    if not head:
        raise AudioError(f"{name}: is empty (0 bytes); record or download it again")
    done = 0
    # MP3 goes to ffmpeg at once: libsndfile's mpg123 writes its complaints about tags and lengths to stderr.
    if not (head == b"ID3" or (head[0] == 0xFF and len(head) > 1 and head[1] >= 0xE0)):
        try:
            for rate, block in _decode_with_libsndfile(file):
                yield rate, block
                done += len(block)
            # libsndfile reads the first link of a chained Ogg stream (recorded web radio), ffmpeg the later ones too
            if done and not (head == b"Ogg" and file.read(4) == b"OggS"):
                return
        except Exception:  # whatever a decoder raises on hostile bytes says: not with this one
            pass
        file.seek(0)
    try:
        # where libsndfile gave up midway, ffmpeg often gets further: it leaves out single damaged packets
        for rate, block in _decode_with_ffmpeg(name, file):
            done -= (skipped := min(done, len(block)))
            if skipped < len(block):
                yield rate, block[skipped:]
    except AudioError as error:
        if not done:
            raise
        _log.warning("%s; only its start is used", error)


def _decode_with_libsndfile(file: IO[bytes]) -> Iterator[tuple[int, Waveform]]:
    import soundfile

    # a descriptor instead of the path: libsndfile then looks at the content alone, not at the file's extension
    with soundfile.SoundFile(file if isinstance(file, _Memory) else file.fileno(), closefd=False) as sound:
        frames = max(_BLOCK_SAMPLES // sound.channels, 1)
        while len(block := sound.read(frames, dtype="float32", always_2d=True)):
            yield sound.samplerate, _mix_down(block)


def _decode_with_ffmpeg(name: str, file: IO[bytes]) -> Iterator[tuple[int, Waveform]]:
    import av

    try:
        # no protocols: a playlist in disguise must not open other files or the network
        container = av.open(file, metadata_errors="replace", options={"protocol_whitelist": "none"})
    except Exception as error:
        raise AudioError(
            f"{name}: is no audio that libsndfile or ffmpeg can read; convert it to WAV or FLAC"
        ) from error
    with container:
        stream = container.streams.best("audio")
        if stream is None:
            raise AudioError(f"{name}: has no audio stream; give a file with sound")
        fifo, fifo_holds, fifo_rate = av.AudioFifo(), None, 0
        for frame in _decode_packets(name, container, stream):
            holds = (frame.format.name, frame.layout.name, frame.sample_rate, frame.time_base)
            if fifo_holds not in (None, holds) or fifo.samples >= _FIFO_SAMPLES:
                yield fifo_rate, _scale_and_mix_down(fifo.read())
                fifo = av.AudioFifo()
            frame.pts = None  # gaps in the time stamps are not filled
            fifo.write(frame)
            fifo_holds, fifo_rate = holds, frame.sample_rate
        if not fifo.samples:
            raise AudioError(f"{name}: no audio samples can be decoded from it; record or export it again")
        yield fifo_rate, _scale_and_mix_down(fifo.read())


def _decode_packets(name: str, container: Any, stream: Any) -> Iterator[Any]:
    """The frames of one stream. Damaged packets are left out, counted and logged."""
    damaged = 0
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except Exception:
                damaged += 1
            else:
                yield from frames
    except Exception:  # from here on the container itself is broken
        damaged += 1
    if damaged:
        _log.warning("%s: damaged: %d packets could not be decoded, the rest is used", name, damaged)


def _scale_and_mix_down(frame: Any) -> Waveform:
    """An ffmpeg frame of 8-bit to 64-bit integers or floats, planar or interleaved, as mono float32."""
    if frame.format.name == "s64":  # which PyAV does not convert
        samples: np.ndarray = np.frombuffer(frame.planes[0], np.int64, frame.samples * frame.layout.nb_channels)
    else:
        samples = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(frame.samples, -1)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) * np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
    with np.errstate(over="ignore"):  # what overflows is refused later, in words
        samples = samples.astype(np.float32, copy=False)
    return _mix_down(samples)


def _mix_down(samples: np.ndarray) -> Waveform:
    """(samples, channels) -> mean over the channels; a single channel is not copied."""
    channels = samples.shape[1]
    if channels == 1:
        return samples[:, 0]
    mono = np.einsum("sc->s", samples)  # 3 times faster than mean(axis=1)
    mono *= np.float32(1 / channels)
    return mono


class _Memory(io.BytesIO):
    """Bytes as a file. A damaged header may send a decoder before the start: that fails instead of raising, because an
    exception inside of a decoder's callback is printed."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return -1


def _open(source: Source) -> tuple[str, IO[bytes]]:
    """The source's name for messages and a binary file at its start: on disk as a raw `FileIO`, else in memory."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<{memoryview(source).nbytes} bytes>", _Memory(source)
    if isinstance(source, str | os.PathLike):
        return _open_path(source)
    if not hasattr(source, "read"):
        raise TypeError(f"expected a path, bytes or a binary file object, not {type(source).__name__}")
    name = _printable(getattr(source, "name", None) or "<file object>")
    try:
        content = source.read()
    except (OSError, ValueError, EOFError) as error:  # among them: closed file, broken gzip, text that is not UTF-8
        raise AudioError(f"{name}: cannot be read ({_printable(error)}); open it again in binary mode") from error
    if not isinstance(content, bytes | bytearray | memoryview):
        raise AudioError(f'{name}: gives text instead of bytes; open it in binary mode ("rb")')
    return name, _Memory(content)


def _open_path(path: str | os.PathLike[str]) -> tuple[str, IO[bytes]]:
    name = _printable(os.fspath(path))
    try:
        file = Path(path).open("rb", buffering=0)  # noqa: SIM115
        mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file; check the path") from error
    except PermissionError as error:
        raise AudioError(f"{name}: no permission to read it; change the file's mode or owner") from error
    except IsADirectoryError as error:
        raise AudioError(f"{name}: is a folder; give the files in it") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise AudioError(f"{name}: cannot be opened ({_printable(error)}); check the path") from error
    if stat.S_ISREG(mode):
        file.name = "<file>"  # ffmpeg would otherwise believe a wrong extension
        return name, file
    with file:
        if not stat.S_ISFIFO(mode):  # such as /dev/zero, which never ends
            raise AudioError(f"{name}: is neither a file nor a pipe; give a sound file")
        return name, _Memory(file.read())


def _printable(name: object) -> str:
    """A name that fits on one line of any terminal."""
    text = str(name)
    return text if text.isprintable() else ascii(text)
