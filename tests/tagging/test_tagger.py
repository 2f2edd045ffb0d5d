"""Tagger: sources, windows, batches, order, failures; the same sound in any container."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from audioset_dcls.tagging.results import Failure, Options, Result
from audioset_dcls.tagging.tagger import Tagger
from preprocessing.audio import AudioError, read_audio
from tests.conftest import RECORDINGS, environment, first_labels

ROOSTER = RECORDINGS / "rooster.ogg"


@pytest.mark.parametrize("file", first_labels())
def test_the_recordings_get_their_tags(file: str, tagger: Tagger) -> None:
    """The session's tagger was fitted to these: what is tested is the way from file to name."""
    assert tagger(RECORDINGS / file).top(1)[0][0] == first_labels()[file]


def test_sources_are_equal(tagger: Tagger) -> None:
    content = ROOSTER.read_bytes()
    expected = tagger(ROOSTER).scores
    for source in (str(ROOSTER), content, io.BytesIO(content), read_audio(ROOSTER)):
        assert np.array_equal(tagger(source).scores, expected)


def test_a_result(tagger: Tagger) -> None:
    result = tagger(ROOSTER)
    assert result.source == str(ROOSTER)
    assert result.scores.shape == result.mean_scores.shape == (527,)
    assert result.scores.dtype == np.float32
    assert 0 <= result.scores.min() < result.scores.max() <= 1
    assert result.timeline is not None
    assert result.timeline.shape == (1, 527)
    assert result.embedding is not None
    assert result.embedding.shape == (320,)
    assert result.duration == pytest.approx(len(read_audio(ROOSTER)) / 32_000)
    assert [score for _, score in result.top(527, all_levels=True)] == sorted(result.scores.tolist(), reverse=True)
    assert result.top(3, threshold=1.1) == []
    (event, *_) = result.events
    assert (event.start, event.label) == (0, first_labels()["rooster.ogg"])
    assert event.end == pytest.approx(result.duration, abs=1e-3)


def test_windows_are_as_long_as_the_clips_in_training(tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    silence = np.zeros(6 * 32_000, np.float32)
    monkeypatch.setitem(tagger.metadata, "clip_seconds", 2.5)
    result = tagger(silence)
    assert (result.window, result.starts.tolist()) == (2.5, [0, 1.25, 2.5, 3.5])
    assert tagger(silence, hop=2).starts.tolist() == [0, 2, 3.5]
    assert tagger(silence, window=4).starts.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"hop must be 0\.1 to 2\.5 seconds"):
        tagger(silence, hop=5)
    monkeypatch.setitem(tagger.metadata, "hop_seconds", 2.5)
    assert tagger(silence).starts.tolist() == [0, 2.5, 3.5]
    assert tagger(silence, window=2).starts.tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setitem(tagger.metadata, "clip_seconds", 30)
    assert tagger.window == 10  # recordings are rarely that long


def test_a_long_recording(tagger: Tagger) -> None:
    """Windows every 5 s, one at the end; max, mean and events from the windows; each like its own clip."""
    sound = read_audio(ROOSTER)
    waveform = np.zeros(round(33.5 * 32_000), np.float32)
    waveform[20 * 32_000 : 20 * 32_000 + len(sound)] = sound
    result = tagger(waveform)
    assert result.starts.tolist() == [0, 5, 10, 15, 20, 23.5]
    assert result.timeline is not None
    np.testing.assert_array_equal(result.scores, result.timeline.max(0))
    np.testing.assert_allclose(result.mean_scores, result.timeline.mean(0), rtol=1e-5)
    for start, scores in zip(result.starts, result.timeline, strict=True):
        begin = round(start * 32_000)
        np.testing.assert_allclose(tagger(waveform[begin : begin + 320_000]).scores, scores, atol=1e-5)
    label = first_labels()["rooster.ogg"]
    (event,) = [event for event in result.events if event.label == label]
    assert event.start <= 20 + len(sound) / 32_000
    assert event.end >= 20
    assert event.end - event.start <= 10


def test_a_few_milliseconds_more_than_a_window_are_no_second_window(tagger: Tagger) -> None:
    assert len(tagger(np.zeros(320_000 + 3_200, np.float32)).starts) == 1
    assert len(tagger(np.zeros(320_000 + 3_201, np.float32)).starts) == 2


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_sample_rates(rate: int, tagger: Tagger, tmp_path: Path) -> None:
    """Mono and stereo at 8 to 96 kHz. The sound itself holds nothing above 4 kHz, so that all rates can carry it."""
    sound = soxr.resample(read_audio(RECORDINGS / "car_horn.wav"), 32_000, 8_000)
    expected = tagger(soxr.resample(sound, 8_000, 32_000)).top(3)
    resampled = soxr.resample(sound, 8_000, rate)
    soundfile.write(tmp_path / "mono.wav", resampled, rate, "FLOAT")
    soundfile.write(tmp_path / "stereo.flac", np.stack([resampled, resampled], 1), rate, "PCM_24")
    for file in ("mono.wav", "stereo.flac"):
        got = tagger(tmp_path / file).top(3)
        assert got[0][0] == expected[0][0]
        assert got[0][1] == pytest.approx(expected[0][1], abs=0.1)


@pytest.mark.parametrize("file", ["rooster.ogg", "helicopter.ogg", "speech_front_center.wav"])
def test_containers(file: str, tagger: Tagger, tmp_path: Path) -> None:
    """WAV, FLAC, MP3 and M4A of one recording, mono and stereo: the same top tag.

    Over faint noise, as any microphone has: the session's tagger is not trained to ignore bands that a codec empties.
    """
    sound = read_audio(RECORDINGS / file)
    sound = sound + 0.005 * np.random.default_rng(1).standard_normal(len(sound)).astype(np.float32)
    (expected,) = tagger(sound).top(1)
    assert expected[0] == first_labels()[file]
    for channels in (1, 2):
        samples = np.stack([sound] * channels, 1)
        for suffix in ("wav", "flac", "mp3"):
            soundfile.write(tmp_path / f"{channels}.{suffix}", samples, 32_000)
        _write_m4a(tmp_path / f"{channels}.m4a", samples.T)
    for path in sorted(tmp_path.iterdir()):
        label, score = tagger(path).top(1)[0]
        assert (path.name, label) == (path.name, expected[0])
        assert score > expected[1] / 2


def _write_m4a(path: Path, samples: np.ndarray) -> None:
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=32_000, layout=layout, bit_rate=128_000)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), "fltp", layout)
        frame.sample_rate = 32_000
        fifo = av.AudioFifo()
        fifo.write(frame)
        while (part := fifo.read(1024, partial=True)) is not None:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def test_many_in_order_and_failures_in_their_place(tagger: Tagger, tmp_path: Path) -> None:
    """Batches across recordings change nothing, and neither does the number of threads."""
    files = [RECORDINGS / file for file in first_labels()]
    sources = [*files[:7], tmp_path / "missing.wav", *files[7:]]
    for jobs in (1, 3):
        outcomes = list(Tagger(tagger.model.path, jobs=jobs).tag_all(sources))
        assert [outcome.source for outcome in outcomes] == [str(source) for source in sources]
        assert isinstance(outcomes[7], Failure)
        assert "missing.wav: no such file" in outcomes[7].message
        for file, outcome in zip(sources[:3], outcomes, strict=False):
            assert isinstance(outcome, Result)
            np.testing.assert_allclose(outcome.scores, tagger(file).scores, atol=1e-5)


def test_labels_restrict_the_result(tagger: Tagger) -> None:
    whole, part = tagger(ROOSTER), tagger(ROOSTER, labels=("Speech", "Animal"))
    assert part.labels == ("Speech", "Animal")
    assert part.scores.tolist() == [whole.scores[tagger.labels.index(label)] for label in part.labels]
    with pytest.raises(ValueError, match="'Dragon'"):
        tagger(ROOSTER, labels=("Dragon",))


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.zeros((2, 32_000), np.float32), r"\(samples,\), not \(2, 32000\)"),
        (np.zeros(32_000, np.int64), "int64"),
        (np.zeros(32_000, bool), "bool"),
        (np.zeros(32_000, complex), "complex"),
        (np.full(32_000, np.nan, np.float32), "NaN"),
        (np.full(32_000, -20_000.0), "20000|2e.04 times full scale"),
        (np.full(32_000, 1e20), "1e.20 times full scale"),
        (np.full(32_000, 1e300), "NaN or infinite"),
    ],
)
def test_waveforms_that_are_none(waveform: np.ndarray, message: str, tagger: Tagger) -> None:
    with pytest.raises(AudioError, match=message):
        tagger(waveform)
    (failure,) = tagger.tag_all([waveform])
    assert isinstance(failure, Failure)
    assert failure.message.startswith("<waveform>: ")


def test_rates_of_waveforms(tagger: Tagger) -> None:
    """As from a file at that rate; without a rate they are at 32 kHz."""
    sound = read_audio(ROOSTER)
    expected = tagger(sound)
    for rate in (8_000, 44_100, 96_000):
        result = tagger(soxr.resample(sound, 32_000, rate), sample_rate=rate)
        assert result.duration == pytest.approx(expected.duration, abs=1e-3)
        assert result.top(1)[0][0] == expected.top(1)[0][0]
    assert np.array_equal(tagger(sound, sample_rate=32_000).scores, expected.scores)
    assert tagger(sound, 16_000).duration == pytest.approx(2 * expected.duration)
    for rate in (0, 999, 10**6):
        with pytest.raises(AudioError, match=f"the waveform: has a rate of {rate} Hz"):
            tagger(sound, sample_rate=rate)
    with pytest.raises(ValueError, match="a file has its own"):
        tagger(ROOSTER, sample_rate=32_000)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16, np.int32, np.int8, np.uint8])
def test_types_of_waveforms(dtype: type, tagger: Tagger, tmp_path: Path) -> None:
    """Integers as in a file of that type; other floats within their accuracy."""
    sound = read_audio(ROOSTER)
    if np.issubdtype(dtype, np.floating):
        expected, array = sound, sound.astype(dtype)
    else:
        limit = 2.0 ** (8 * np.dtype(dtype).itemsize - 1)
        array = np.clip(np.rint(sound.astype(np.float64) * limit), -limit, limit - 1)
        expected = (array / limit).astype(np.float32)
        array = (array + (128 if dtype is np.uint8 else 0)).astype(dtype)
    np.testing.assert_allclose(tagger(array).scores, tagger(expected).scores, rtol=0, atol=2e-2)
    if dtype is np.int16:
        soundfile.write(tmp_path / "same.wav", array, 32_000)
        assert np.array_equal(tagger(array).scores, tagger(tmp_path / "same.wav").scores)


def test_tensors(tagger: Tagger) -> None:
    """As arrays, whatever graph they are part of; one row or column is a waveform, too."""
    import torch

    sound = torch.from_numpy(read_audio(ROOSTER))
    expected = tagger(sound.numpy()).scores
    for tensor in (sound, sound.clone().requires_grad_() * 1, sound[None], sound[:, None], sound.double()):
        assert np.array_equal(tagger(tensor).scores, expected)
    assert tagger(sound.bfloat16()).top(1)[0][0] == tagger.labels[expected.argmax()]
    assert np.array_equal(tagger((sound * 32_767).short()).scores, tagger((sound * 32_767).short().numpy()).scores)


def test_one_channel_of_a_file(tagger: Tagger, tmp_path: Path) -> None:
    left, right = (read_audio(RECORDINGS / name)[:32_000] for name in ("rooster.ogg", "helicopter.ogg"))
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], 1), 32_000, "FLOAT")
    for channel, sound in (("left", left), (2, right), ("mix", (left + right) / 2)):
        np.testing.assert_allclose(
            tagger(tmp_path / "two.wav", channel=channel).scores, tagger(sound).scores, atol=1e-6
        )
    with pytest.raises(AudioError, match="has no channel 3"):
        tagger(tmp_path / "two.wav", channel=3)


def test_what_is_noted_of_a_file(tagger: Tagger) -> None:
    content = ROOSTER.read_bytes()
    assert tagger(content).note is None
    note = tagger(content[: len(content) * 2 // 3]).note
    assert note is not None
    assert "no end mark" in note.text


def test_a_missing_file_is_one_error(tagger: Tagger) -> None:
    with pytest.raises(AudioError, match="no such file"):
        tagger("missing.wav")


@pytest.mark.parametrize(
    "options",
    [
        {"window": 0},
        {"window": float("nan")},
        {"hop": 0},
        {"hop": 3601},
        {"hop": 11, "window": 10},
        {"threshold": 0},
        {"threshold": 1.5},
        {"top": 0},
        {"channel": "middle"},
        {"channel": 0},
    ],
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Options(**options)  # type: ignore[arg-type]


def test_an_abandoned_run_ends_its_threads(tagger: Tagger) -> None:
    import threading

    before = threading.active_count()
    run = tagger.tag_all([np.zeros(320_000, np.float32)] * 50)
    next(run)
    run.close()
    assert threading.active_count() == before


def test_an_exception_in_the_sources_reaches_the_caller(tagger: Tagger) -> None:
    def sources():  # type: ignore[no-untyped-def]
        yield ROOSTER
        raise RuntimeError("the list broke")

    with pytest.raises(RuntimeError, match="the list broke"):
        list(tagger.tag_all(sources()))


def test_memory_does_not_grow_with_length(tagger_file: Path, tmp_path: Path) -> None:
    """Six minutes take as much as one, within 15 MB: decoded whole they would be 38 MB more."""
    peaks = []
    for minutes in (1, 6):
        path = tmp_path / f"{minutes}.flac"
        soundfile.write(path, np.zeros(minutes * 60 * 32_000, np.int16), 32_000)
        code = (
            "import resource; from audioset_dcls import Tagger\n"
            f"Tagger({str(tagger_file)!r}, jobs=2)({str(path)!r}, window=2.0, hop=2.0)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 15


@pytest.mark.slow
def test_a_clip_in_an_hour_of_silence_is_found(tagger: Tagger, tmp_path: Path) -> None:
    sound = read_audio(ROOSTER)
    waveform = np.zeros(3600 * 32_000, np.float32)
    at = 2345
    waveform[at * 32_000 : at * 32_000 + len(sound)] = sound
    soundfile.write(tmp_path / "hour.flac", waveform, 32_000)
    result = tagger(tmp_path / "hour.flac")
    events = [event for event in result.events if event.label == first_labels()["rooster.ogg"]]
    assert len(events) == 1
    assert at - 5 <= events[0].start <= at + len(sound) / 32_000
    assert events[0].end <= at + 15


def test_a_pickled_tagger_opens_the_same_file(tagger_file: Path) -> None:
    tagger = Tagger(tagger_file, jobs=1)
    again = pickle.loads(pickle.dumps(tagger))
    assert (again.model.path, again.jobs) == (tagger.model.path, 1)
    np.testing.assert_array_equal(again(RECORDINGS / "cow.ogg").scores, tagger(RECORDINGS / "cow.ogg").scores)


def test_a_single_source_is_one_recording(tagger_file: Path) -> None:
    tagger = Tagger(tagger_file)
    path = RECORDINGS / "cow.ogg"
    for source in (str(path), path, path.read_bytes(), read_audio(path)):
        (result,) = tagger.tag_all(source)
        assert isinstance(result, Result)


def test_a_result_in_plain_types_and_in_a_line(tagger_file: Path) -> None:
    result = Tagger(tagger_file)(RECORDINGS / "cow.ogg", threshold=0.1, top=2)
    plain = result.to_dict(2)
    assert json.loads(json.dumps(plain)) == plain
    specific = [tag["label"] for tag in plain["tags"] if not tag["implied"]]
    assert specific == [label for label, _ in result.top(2, 0.1)]
    assert plain["events"] == [
        event._replace(score=round(event.score, 4), mean=round(event.mean, 4))._asdict() for event in result.events
    ]
    best, score = result.top(1)[0]
    assert repr(result).startswith(f"<Result {RECORDINGS / 'cow.ogg'}, {result.duration:.1f} s: {best} {score:.2f}, ")


def heard(scores: dict[str, float], thresholds: float | dict[str, float] = 0.2) -> Result:
    labels = tuple(scores)
    values = np.array(list(scores.values()), np.float32)
    own = thresholds if isinstance(thresholds, dict) else {}
    lowest = np.array([own.get(label, 0.2) for label in labels], np.float32)
    return Result("x.wav", 1.0, labels, values, values, np.zeros(1), 1.0, lowest, [])


def test_the_most_specific_tags() -> None:
    result = heard({"Animal": 0.9, "Dog": 0.8, "Bark": 0.3, "Music": 0.1, "Speech": 0.5})
    assert [label for label, _ in result.top(3)] == ["Speech", "Bark", "Music"]
    assert [label for label, _ in result.top(3, all_levels=True)] == ["Animal", "Dog", "Speech"]
    assert [label for label, _ in result.top(5, threshold=0.2)] == ["Speech", "Bark"]
    assert [(tag["label"], tag["implied"]) for tag in result.to_dict(1)["tags"]] == [
        ("Animal", True),
        ("Dog", True),
        ("Speech", False),
    ]
    assert result.to_dict()["best"] == {"label": "Speech", "score": 0.5}


def test_a_descendant_below_its_own_threshold_implies_nothing() -> None:
    scores = {"Animal": 0.9, "Dog": 0.8, "Bark": 0.3}
    assert heard(scores).top(1)[0][0] == "Bark"
    assert heard(scores, {"Bark": 0.5}).top(1)[0][0] == "Dog"
    assert heard(scores, {"Bark": 0.5, "Dog": 0.9}).top(1)[0][0] == "Animal"


def test_thresholds_of_single_classes(tagger: Tagger) -> None:
    label = first_labels()["rooster.ogg"]
    assert label in [event.label for event in tagger(ROOSTER).events]
    result = tagger(ROOSTER, thresholds={label: 1.0})
    assert label not in [event.label for event in result.events]
    assert label not in [tag["label"] for tag in result.to_dict()["tags"]]
    assert np.array_equal(result.scores, tagger(ROOSTER).scores)
    with pytest.raises(ValueError, match="knows no class 'Dogg'"):
        tagger(ROOSTER, thresholds={"Dogg": 0.5})
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        tagger(ROOSTER, thresholds={label: 2})
