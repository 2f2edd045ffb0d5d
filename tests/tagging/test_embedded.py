"""The tagger in the box hears the test recordings, and its file tells what it is."""

from __future__ import annotations

import csv

import pytest

from audioset_dcls import Tagger
from audioset_dcls.folders import data_folder
from audioset_dcls.tagging.session import OnnxModel
from preprocessing.audio import read_audio
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


def test_what_it_never_learned_stays_silent(model: OnnxModel) -> None:
    masked = [model.labels.index(label) for label in model.metadata["masked"]]
    assert 100 < len(masked) < 300
    for name in ("dog_bark.ogg", "applause.wav", "guitar.ogg"):
        (scores,) = model.run(read_audio(RECORDINGS / name)[None], ["scores"])
        assert scores[0, masked].max() < 1e-6 < 0.3 < scores.max()


def test_the_file_tells_what_it_is(model: OnnxModel) -> None:
    assert FILE.stat().st_size < 20e6
    assert len(model.labels) == 527
    assert model.metadata["licence"] == "MIT"
    assert {"data", "labels_licence", "teacher", "commands", "scores"} <= model.metadata.keys()
    card = FILE.with_name("README.md").read_text(encoding="utf-8")
    mean, low, high = model.metadata["scores"]["mAP"]
    assert low < mean < high
    assert f"{mean:.3f} ({low:.3f} to {high:.3f})" in card
    assert all(command in card for command in model.metadata["commands"])
