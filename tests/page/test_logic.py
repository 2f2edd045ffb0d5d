"""The page's modules against the Python that they repeat, on real recordings."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from audioset_dcls import Tagger
from audioset_dcls.tagging.results import Options, Result
from audioset_dcls.tagging.tagger import embedded_tagger
from audioset_dcls.tagging.windows import cut_windows
from audioset_dcls.tagging.writers import FORMATS
from audioset_dcls.tagging.writers.formats import View
from preprocessing.audio import SAMPLE_RATE, Mixer, read_audio
from preprocessing.labels import ancestor_matrix
from scripts.page_data import DEFAULTS
from tests.conftest import RECORDINGS
from tests.page.script import call

FORMAT_CALLS = {
    ("csv", False): "csv(record, false)",
    ("csv", True): "csv(record, true)",
    ("json", False): "json(record, false)",
    ("json", True): "json(record, true)",
    ("audacity", True): "audacity(record)",
    ("raven", True): "raven(record)",
}


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger()


def packed(samples: np.ndarray) -> str:
    """float32 samples as text, for `UNPACK`."""
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


UNPACK = "const floats = (text) => new Float32Array(new Uint8Array(Buffer.from(text, 'base64')).buffer);"
PACK = (
    "const text = (samples) => Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength).toString('base64');"
)


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def resampled(samples: np.ndarray, rate: int, blocks: int = 1) -> np.ndarray:
    """By the page, in that many blocks."""
    code = (
        f"{UNPACK}{PACK} const resampler = new Resampler(rate, {SAMPLE_RATE});"
        "const pieces = [...blocks.map((block) => resampler.push(floats(block))), resampler.finish()];"
        "return text(Float32Array.from(pieces.flatMap((piece) => [...piece])));"
    )
    pieces = [packed(block) for block in np.array_split(samples, blocks)]
    return unpacked(call("resample.js", code, rate=rate, blocks=pieces))


@pytest.mark.parametrize("rate", [8000, 11_025, 12_345, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_resampled_tones_are_exact(rate: int) -> None:
    """Within 2e-6, 114 dB below full scale, up to 0.9 of the lower Nyquist frequency; as many samples as soxr gives.

    soxr, which Python uses, is as exact but for 44.1 and 22.05 kHz, where it interpolates its weights: within 1e-3.
    """
    frequencies = np.random.default_rng(0).uniform(20, 0.9 * min(rate, SAMPLE_RATE) / 2, 20)

    def tones(count: int, rate: int) -> np.ndarray:
        time = np.arange(count) / rate
        return np.sin(2 * np.pi * np.outer(frequencies, time)).mean(axis=0) * (0.5 - 0.5 * np.cos(2 * np.pi * time))

    samples = tones(rate, rate).astype(np.float32)
    soxrs = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    ours = resampled(samples, rate)
    assert len(ours) == len(soxrs)
    np.testing.assert_allclose(ours, tones(len(ours), SAMPLE_RATE), atol=2e-6, rtol=0)
    np.testing.assert_allclose(ours, soxrs, atol=1e-3, rtol=0)
    np.testing.assert_array_equal(ours, resampled(samples, rate, blocks=7))
    cut = samples[: rate // 3 + 1]
    assert len(resampled(cut, rate)) == len(soxr.resample(cut, rate, SAMPLE_RATE, quality="HQ"))


def test_resampled_recordings_score_the_same(tagger: Tagger) -> None:
    """Within 1e-2; the filters differ near the Nyquist frequency alone."""
    rates = set()
    for path in sorted(RECORDINGS.glob("*.[ow][ga][gav]"))[:8]:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        rates.add(rate)
        ours = resampled(Mixer("", None)(samples), rate) if rate != SAMPLE_RATE else read_audio(path)
        (expected,), (scores,) = (tagger.model.run(waveform[None]) for waveform in (read_audio(path), ours))
        np.testing.assert_allclose(scores, expected, atol=1e-2, rtol=0, err_msg=path.name)
    assert len(rates) > 1


def test_windows_are_those_of_python() -> None:
    code = (
        "return recordings.map(({ hop, blocks }) => {"
        "  const cutter = new WindowCutter(10, hop, 1);"
        "  const windows = blocks.flatMap((block) => cutter.push(Float32Array.from(block)));"
        "  return [...windows, ...cutter.finish()].map(({ start, samples }) => [start, [...samples]]);"
        "});"
    )
    rng = np.random.default_rng(0)
    recordings, expected = [], []
    for length in (1, 9, 10, 11, 12, 13, 25, 30, 31, 97):
        blocks = np.array_split(np.arange(length, dtype=np.float32), min(length, int(rng.integers(1, 6))))
        for hop in (3, 5, 10):
            recordings.append({"hop": hop, "blocks": [block.tolist() for block in blocks]})
            expected.append([[start, samples.tolist()] for start, samples in cut_windows(blocks, 10, hop, 1)])
    assert call("windows.js", code, recordings=recordings) == expected


def test_ancestors_are_those_of_python(tagger: Tagger) -> None:
    labels = (*tagger.labels[::3], "My own class")
    found = call("events.js", "return ancestors(labels, parents);", labels=labels, parents=DEFAULTS["parents"])
    above = ancestor_matrix(labels)
    assert [sorted(indices) for indices in found] == [np.flatnonzero(row).tolist() for row in above]


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("hop", [0.5, 2.5])
def test_events_and_files_are_those_of_python(tagger: Tagger, threshold: float, hop: float) -> None:
    """To the byte, of the same scores."""
    names = ["dog_bark.ogg", "rooster.ogg", "guitar.ogg", "thunder.wav", "cow.ogg"]
    waveform = np.concatenate([read_audio(RECORDINGS / name) for name in names])
    options = Options(2.5, hop, threshold, 3)
    (result,) = tagger.tag_all(waveform, options)
    assert isinstance(result, Result)
    assert result.timeline is not None
    result.source = '=-"odd", names \x1b[31m\tß 音.wav'
    for (name, timeline), text in ours(tagger, result, threshold, 3).items():
        record = {**result.to_dict(3), "path": None, "channel": None, "band": [0.0, 15_000.0], "recorded": None}
        assert text == "".join(FORMATS[name].text([record], View(timeline))), name


def ours(tagger: Tagger, result: Result, threshold: float, top: int) -> dict[tuple[str, bool], str]:
    """The files of the page for the scores of a result."""
    assert result.timeline is not None
    code = (
        f"{UNPACK} const tagger = {{ labels, above: ancestors(labels, parents), window, band, release }};"
        "const windows = starts.map((start, i) => ({ start, scores: floats(timeline[i]) }));"
        "const record = new Result(name, duration, windows, tagger).record(threshold, top);"
        f"return [{', '.join(FORMAT_CALLS.values())}];"
    )
    texts = call(
        ["result.js", "events.js", "writers.js"],
        code,
        name=result.source,
        duration=result.duration,
        starts=result.starts.tolist(),
        timeline=[packed(scores) for scores in result.timeline],
        threshold=threshold,
        top=top,
        labels=tagger.labels,
        window=result.window,
        band=[0.0, 15_000.0],
        release=DEFAULTS["release"],
        parents=DEFAULTS["parents"],
    )
    return dict(zip(FORMAT_CALLS, texts, strict=True))


def numbers() -> Iterator[float]:
    yield from np.random.default_rng(0).uniform(0, 100, 500).tolist()
    yield from (k / 16 for k in range(200))  # with ties at 3 digits
    yield from (k / 32 for k in range(200))  # and at 4
    yield from np.float32(np.random.default_rng(1).uniform(0, 1, 500)).tolist()


def test_numbers_are_written_as_by_python() -> None:
    values = list(numbers())
    code = "return values.map((x) => [fixed(x, 2), fixed(x, 3), round(x, 4), decimal(round(x, 3))]);"
    expected = [[f"{x:.2f}", f"{x:.3f}", round(x, 4), repr(round(x, 3))] for x in values]
    assert call("numbers.js", code, values=values) == expected


def test_the_rate_is_the_files_own(tmp_path: Path) -> None:
    """Of all formats that a browser plays and this machine can write."""
    files = [path for path in sorted(RECORDINGS.iterdir()) if path.suffix in (".wav", ".ogg", ".oga", ".mp3")]
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000)
    for name, rate in [("a.flac", 24_000), ("b.mp3", 22_050), ("c.mp3", 44_100), ("d.wav", 8_000), ("e.wav", 96_000)]:
        soundfile.write(tmp_path / name, noise, rate)
        files.append(tmp_path / name)
    code = "return files.map((file) => ownRate(new Uint8Array(Buffer.from(file, 'base64'))));"
    rates = call("audio.js", code, files=[encoded(path.read_bytes()) for path in files])
    assert rates == [soundfile.info(path).samplerate for path in files]
    assert call("audio.js", code, files=[encoded(b"RIFF"), encoded(b"")]) == [None, None]


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_mixed_as_by_python() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(0, 0.1, (2, 1000)).astype(np.float32)
    code = (
        f"{UNPACK}{PACK} const notes = []; const mono = mix(channels.map(floats), (n) => notes.push(n));"
        "return [text(mono), notes];"
    )
    for channels in ([left], [left, right], [left, -left], [0.5 * left, -0.45 * left, 0 * left], [left, right, -left]):
        mixer = Mixer("", None)
        expected = mixer(np.stack(channels, axis=1))
        mono, notes = call("audio.js", code, channels=[packed(channel) for channel in channels])
        np.testing.assert_allclose(unpacked(mono), expected, atol=1e-7, rtol=0)
        assert len(notes) == len(mixer.notes)


def test_facts_of_a_tagger(tagger: Tagger) -> None:
    code = "return readFacts(Buffer.from(bytes, 'base64'), defaults);"
    content = embedded_tagger().read_bytes()
    facts = call("tagger_file.js", code, bytes=encoded(content), defaults=DEFAULTS)
    assert facts["labels"] == list(tagger.labels)
    assert (facts["sampleRate"], facts["window"], facts["hop"]) == (SAMPLE_RATE, tagger.window, tagger.hop)
    assert facts["logMel"] == tagger.model.log_mel_settings.to_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"RIFF, no model", "no ONNX file"), (b"", "no tagger written"), (b"\x72\xff\xff\xff\x7f", "no ONNX file")],
)
def test_what_is_no_tagger_is_refused_in_words(content: bytes, message: str) -> None:
    code = "try { readFacts(Buffer.from(bytes, 'base64'), {}); } catch (error) { return error.message; }"
    assert message in call("tagger_file.js", code, bytes=encoded(content))


def test_recordings_of_the_microphone_are_wav_files(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    code = (
        f"{UNPACK} const file = wavFile(blocks.map(floats), 44100, 'a.wav');"
        "return Buffer.from(await file.arrayBuffer()).toString('base64');"
    )
    content = call("audio.js", code, blocks=[packed(samples[:400]), packed(samples[400:])])
    (tmp_path / "a.wav").write_bytes(base64.b64decode(content))
    read, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 44_100
    np.testing.assert_array_equal(read, samples)
