"""The tagger in the box hears the test recordings, and its file tells what it is."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from audioset_dcls import Tagger
from audioset_dcls.folders import data_folder
from audioset_dcls.models import load_checkpoint
from audioset_dcls.tagging.session import OnnxModel
from preprocessing.audio import read_audio
from preprocessing.log_mel import LogMel
from tests.conftest import RECORDINGS

FILE = data_folder("checkpoints") / "tagger.onnx"


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    return OnnxModel(FILE)


def test_a_right_answer_comes_first_or_second() -> None:
    """For nearly all recordings: two of twenty may be mistaken."""
    tagger = Tagger()
    with (RECORDINGS / "expected.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["file"]: row["labels"].split(";") for row in csv.DictReader(file)}
    heard = {name: [label for label, _ in tagger(RECORDINGS / name).top(2)] for name in expected}
    mistaken = {name: labels for name, labels in heard.items() if not set(labels) & set(expected[name])}
    assert len(expected) == 20
    assert len(mistaken) <= 2, mistaken


def test_the_checkpoint_beside_it_has_the_same_weights(model: OnnxModel) -> None:
    """Calibrated, too. Within 0.02: the ONNX file rounds weights with batch norms merged to float16, this without."""
    checkpoint = load_checkpoint("embedded")
    assert checkpoint.labels == model.labels
    assert checkpoint.config == model.metadata["model"]
    for name in ("dog_bark.ogg", "applause.wav", "guitar.ogg"):
        waveform = read_audio(RECORDINGS / name)
        (scores,) = model.run(waveform[None], ["scores"])
        with torch.inference_mode():
            log_mel = LogMel(checkpoint.log_mel_settings)(torch.from_numpy(waveform)[None])
            np.testing.assert_allclose(scores, checkpoint(log_mel).sigmoid(), atol=0.02, rtol=0)
        assert scores.max() > 0.3


def test_the_file_tells_what_it_is(model: OnnxModel) -> None:
    assert FILE.stat().st_size < 12e6
    assert FILE.with_suffix(".safetensors").stat().st_size < 12e6
    assert len(model.labels) == 527
    assert model.metadata["masked"] == []
    assert model.metadata["licence"] == "MIT"
    assert {"data", "labels_licence", "teacher", "commands", "scores"} <= model.metadata.keys()
    card = FILE.with_name("README.md").read_text(encoding="utf-8")
    for data in ("test", "repositories_test"):
        for value, low, high in (model.metadata["scores"][data][metric] for metric in ("mAP", "specific_top_3")):
            assert low < value < high
            assert f"{value:.3f} ({low:.3f} to {high:.3f})" in card
    assert all(command in card for command in model.metadata["commands"])
