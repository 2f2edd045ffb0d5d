"""The sounds of mistakes: the clips themselves, the worst first, within a limit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from audioset_dcls.evaluation.predictions import Predictions
from audioset_dcls.evaluation.report_page import most_confident
from audioset_dcls.evaluation.report_sounds import mistake_sounds
from audioset_dcls.evaluation.summary import Summary, summarize
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.layout import to_int16
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter

CLIPS, SAMPLES = 12, 2 * SAMPLE_RATE
PITCHES = 300 + 100 * np.arange(CLIPS)  # Hz, of the tone that each clip is


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, ClipFile]:
    path = tmp_path_factory.mktemp("sounds") / "clips.h5"
    generator = np.random.default_rng(0)
    targets = generator.random((CLIPS, 3)) < 0.5
    targets[:2] = [[True] * 3, [False] * 3]
    time = np.arange(SAMPLES) / SAMPLE_RATE
    waveforms = [to_int16(0.5 * np.sin(2 * np.pi * pitch * time)) for pitch in PITCHES]
    names = [f"clip-{index:02d}" for index in range(CLIPS)]
    with ClipWriter(path, ("a", "b", "c"), samples=SAMPLES) as writer:
        writer.append(names, waveforms, targets)
        writer.finish()
    scores = {"full": generator.random((CLIPS, 3)).astype(np.float32)}
    return summarize(Predictions(names, ("a", "b", "c"), targets, scores), resamples=10), ClipFile(path)


def test_sounds_are_the_clips_of_the_mistakes(evaluated: tuple[Summary, ClipFile]) -> None:
    summary, data = evaluated
    sounds = mistake_sounds(summary, data)
    wrong = {clip for positives in (True, False) for clip in most_confident(summary, positives)[0].tolist()}
    assert sounds.keys() == wrong
    for clip, sound in sounds.items():
        waveform, rate = soundfile.read(io.BytesIO(sound))
        assert rate == SAMPLE_RATE
        spectrum = np.abs(np.fft.rfft(waveform[:SAMPLES]))
        assert np.argmax(spectrum) * rate / SAMPLES == pytest.approx(PITCHES[clip], abs=1)


def test_sounds_stay_under_the_limit_and_begin_with_the_worst(evaluated: tuple[Summary, ClipFile]) -> None:
    summary, data = evaluated
    every = mistake_sounds(summary, data)
    some = mistake_sounds(summary, data, limit=sum(map(len, every.values())) // 2)
    assert 0 < sum(map(len, some.values())) <= sum(map(len, every.values())) // 2
    assert list(some) == list(every)[: len(some)]
    assert next(iter(some)) == most_confident(summary, positives=False)[0][0]
