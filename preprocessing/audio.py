"""Decoding: any audio file -> a mono float32 waveform at 32 kHz, on the file's own time axis.

libsndfile decodes what it can (WAV, FLAC, Ogg, Opus, AIFF, AU, CAF, ...), PyAV (ffmpeg inside its wheel) the rest (MP3,
M4A, MP4, WebM, WMA, ...). Channels are averaged, then soxr resamples. Everything streams: `read_audio` joins the blocks
that `iter_audio` gives. PyAV and soxr are imported when a file needs them, torch never. `preprocessing/decoding/` has a
module for each decoder and for what the formats say about time.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

import numpy as np

from preprocessing.constants import SAMPLE_RATE
from preprocessing.decoding import chain, ffmpeg, libsndfile, mp3, ogg, riff
from preprocessing.decoding.ranges import Ranges
from preprocessing.decoding.sources import Source, open_source
from preprocessing.decoding.spans import AudioError, Findings, Note, Span, Waveform, on_time_axis
from preprocessing.terminal import printable

__all__ = ["MIX", "SAMPLE_RATE", "AudioError", "Note", "channel_count", "iter_audio", "read_audio", "to_channel"]

MIN_FILE_RATE, MAX_FILE_RATE = 1_000, 768_000  # Hz; outside of it a header is damaged
MAX_AMPLITUDE = 100.0  # times full scale: more is no headroom but integers in floats, or no audio
MIX = "mix"
_NAMED_CHANNELS = {"left": 1, "right": 2}
_CANCELLED = 0.02  # of the energy that channels without anything in common leave in their mean: 17 dB less

_log = logging.getLogger(__name__)

OnNote = Callable[[Note], None]
_Decoder = Callable[["Mixer", Findings], Iterator[Span]]


def read_audio(
    source: Source, sample_rate: int = SAMPLE_RATE, channel: str | int = MIX, on_note: OnNote | None = None
) -> Waveform:
    """The whole of an audio source as a mono waveform: (samples,) float32, full scale is [-1, 1].

    Args:
        source: a path, the bytes of a file, or a binary file object (read from where it stands to its end).
        sample_rate: of the result, Hz.
        channel: "mix", the mean over the channels; or one of them: "left", "right", 1, 2, ...
        on_note: called once, at the end, if there is something to say about the file; by default it is logged.

    Resampled with soxr's HQ setting (20-bit accuracy). Floats beyond full scale are kept. A sample stands at the time
    that the file gives it: what is missing (a gap in the time stamps, lost packets, damage) is silence, of a truncated
    file comes what decodes, and the note says so. If the channels cancel each other in their mean, the loudest one is
    taken instead. Of several audio tracks comes the default one, or the first one that is not silent if that is.

    Raises AudioError if the source is missing, no audio, without a single sample, without that channel, at a rate
    outside of 1 to 768 kHz, or holds NaN, infinite samples or values beyond 100 times full scale.
    """
    blocks = list(_resampled_blocks(source, sample_rate, channel, on_note))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def iter_audio(
    source: Source,
    block_seconds: float,
    sample_rate: int = SAMPLE_RATE,
    channel: str | int = MIX,
    on_note: OnNote | None = None,
) -> Iterator[Waveform]:
    """Blocks of `block_seconds` of an audio source, the last one shorter: joined they equal `read_audio(source)`.

    Memory is constant however long the source is; pipes and file objects beyond 64 MB are kept in a temporary file.
    Raises as `read_audio` does, at the block where the trouble lies.
    """
    size = round(block_seconds * sample_rate)
    if size < 1:
        raise ValueError(f"block_seconds must hold at least one sample, not {block_seconds}")
    return rebuffer(_resampled_blocks(source, sample_rate, channel, on_note), size)


def channel_count(source: Source) -> int:
    """The number of channels that the first block of an audio source has. Raises AudioError as `read_audio` does."""
    counter = Mixer("", 1)
    name, file = open_source(source)
    with file:
        next(_decode(name, file, counter, Findings()), None)
    return counter.count


def to_channel(text: str | int) -> str | int:
    """What `channel` takes, from what a user writes: "mix", "left", "right" or a number. Raises ValueError."""
    if text == MIX:
        return MIX
    number = _NAMED_CHANNELS.get(str(text), text)
    if not str(number).isdecimal() or int(number) < 1:
        raise ValueError(f"channel must be mix, left, right or a number from 1, not {text!r}")
    return int(number)


def rebuffer(blocks: Iterator[Waveform], size: int) -> Iterator[Waveform]:
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


def _resampled_blocks(
    source: Source, sample_rate: int, channel: str | int, on_note: OnNote | None
) -> Iterator[Waveform]:
    """Non-empty blocks at `sample_rate`; at least one, or AudioError."""
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive, not {sample_rate}")
    channel = to_channel(channel)
    name, file = open_source(source)
    findings, empty = Findings(), True
    mixer = Mixer(name, None if channel == MIX else int(channel))
    with file:
        try:
            for block in resample(checked(name, _decode(name, file, mixer, findings)), sample_rate):
                if len(block):
                    empty = False
                    yield block
        except AudioError:
            if file.failure is None:
                raise
        if file.failure is not None:  # the decoders took it for the file's end
            raise AudioError(
                f"{name}: cannot be read ({printable(file.failure)}); check the disk or the network it is on"
            ) from file.failure
    if empty:
        raise AudioError(f"{name}: no audio samples can be decoded from it; record or export it again")
    note = findings.note()
    if note is not None and on_note is None:
        _log.warning("%s: %s", name, note.text)
    elif note is not None and on_note is not None:
        on_note(note)


def resample(blocks: Iterator[tuple[int, Waveform]], sample_rate: int) -> Iterator[Waveform]:
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


def checked(name: str, blocks: Iterator[tuple[int, Waveform]]) -> Iterator[tuple[int, Waveform]]:
    """The same blocks, with AudioError at a sample rate or at samples that cannot be audio."""
    for rate, block in blocks:
        check_rate(name, rate)
        check_amplitude(name, block)
        yield rate, block


def check_rate(name: str, rate: float) -> None:
    """Raises AudioError for a sample rate, Hz, that no audio has."""
    if not MIN_FILE_RATE <= rate <= MAX_FILE_RATE:
        raise AudioError(f"{name}: has a rate of {rate} Hz, not {MIN_FILE_RATE} to {MAX_FILE_RATE} Hz; correct it")


def check_amplitude(name: str, samples: Waveform) -> None:
    """Raises AudioError for samples that are no numbers, or no audio on a scale of [-1, 1]."""
    peak = np.maximum(samples.max(initial=0), -samples.min(initial=0))  # both pass NaN on
    if not peak <= MAX_AMPLITUDE:
        found = f"samples of {peak:.3g} times full scale" if np.isfinite(peak) else "NaN or infinite samples"
        raise AudioError(f"{name}: holds {found}; scale it to [-1, 1] or export it again")


def _decode(name: str, file: IO[bytes], mixer: Mixer, findings: Findings) -> Iterator[tuple[int, Waveform]]:
    """(sample rate, mono block) pairs from the first decoder that reads the file; notes go into `findings`."""
    file, quick = _libsndfile_decoder(name, file)
    done = 0
    if quick is not None:
        attempt = Findings()
        try:
            for rate, block in on_time_axis(quick(mixer, attempt), attempt):
                yield rate, block
                done += len(block)
            file.read(1)  # a descriptor that cannot be read ends libsndfile's file; this notices why
            if done:
                findings.notes = attempt.notes + mixer.notes
                return
        except AudioError:
            raise
        except Exception:  # whatever a decoder raises on hostile bytes says: not with this one
            pass
    attempt = Findings()
    try:
        # where libsndfile gave up midway, ffmpeg goes on: it decodes what comes after the damage
        for rate, block in on_time_axis(ffmpeg.decode(name, file, mixer, attempt), attempt):
            done -= (skipped := min(done, len(block)))
            if skipped < len(block):
                yield rate, block[skipped:]
    except AudioError as error:
        if not done:
            raise
        attempt.say(f"only its start can be decoded ({str(error).removeprefix(f'{name}: ')})")
    findings.notes = attempt.notes + mixer.notes


def _libsndfile_decoder(name: str, file: IO[bytes]) -> tuple[IO[bytes], _Decoder | None]:
    """The file without tags before its sound, at its start, and how libsndfile decodes it, or None for ffmpeg's."""
    begin = mp3.tags_end(file)
    file.seek(begin)
    head = file.read(4)
    if not head:
        file.seek(0)
        if not file.read(1):
            raise AudioError(f"{name}: is empty (0 bytes); record or download it again")
    if begin and head and not mp3.begins_frame(head):
        file = Ranges(file, [(begin, file.seek(0, io.SEEK_END))])  # type: ignore[assignment]
    decoder: _Decoder | None = partial(libsndfile.decode, file)
    # libsndfile complains of MP3 tags on stderr, and tells on stdout what it finds in SDS
    if (mp3.begins_frame(head) and not mp3.is_free_format(head)) or head[:2] == b"\xf0\x7e":
        decoder = None
    elif head == b"OggS":
        links = ogg.read_links(file)
        decoder = None if links is None else partial(chain.decode, file, links)
    elif head == b"RIFF" and (samples := riff.find_samples(file)) is not None:
        decoder = partial(libsndfile.decode_wav, file, samples)
    file.seek(0)
    return file, decoder


class Mixer:
    """(samples, channels) blocks -> mono: the mean over the channels, or the channel number `channel`.

    The mean of channels that cancel each other is no sound of the recording: its loudest channel is taken instead.
    """

    def __init__(self, name: str, channel: int | None) -> None:
        self.count = 0  # of the block before
        self.notes: list[Note] = []
        self._name, self._channel = name, channel

    def __call__(self, samples: np.ndarray) -> Waveform:
        self.count = channels = samples.shape[1]
        if self._channel is not None:
            if self._channel > channels:
                raise AudioError(f"{self._name}: has no channel {self._channel}, its last one is {channels}")
            return np.ascontiguousarray(samples[:, self._channel - 1])
        if channels == 1:
            return samples[:, 0]
        mono = np.einsum("sc->s", samples)  # 3 times faster than mean(axis=1)
        mono *= np.float32(1 / channels)
        with np.errstate(all="ignore"):  # huge values are refused later, in words
            cancelled = np.dot(mono, mono) < _CANCELLED * _energy(samples) / channels**2
        return self._loudest(samples) if cancelled else mono

    def _loudest(self, samples: np.ndarray) -> Waveform:
        loudest = int(np.argmax(np.einsum("sc,sc->c", samples, samples)))
        if not self.notes:
            self.notes.append(
                Note(f"its channels cancel each other in the mix; channel {loudest + 1} was heard instead")
            )
        return np.ascontiguousarray(samples[:, loudest])


def _energy(samples: np.ndarray) -> float:
    flat = samples.ravel(order="K")  # no copy
    return float(np.dot(flat, flat))
