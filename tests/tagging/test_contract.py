"""Taggers of other families: what they may leave out, and what a refusal says."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from audioset_dcls.store import teach
from audioset_dcls.tagging.contract import labels_file
from audioset_dcls.tagging.job import run
from audioset_dcls.tagging.outputs import Outputs
from audioset_dcls.tagging.recordings import find_recordings
from audioset_dcls.tagging.results import Options
from audioset_dcls.tagging.session import ModelError
from audioset_dcls.tagging.tagger import Tagger
from tests.conftest import write_tones


def write_foreign(path: Path, rate: int = 16_000, **metadata: str) -> Path:
    """A tagger as others might write it: no embedding, no log-mel, 16 kHz; the first score tells how loud it is."""
    nodes = [
        helper.make_node("ReduceL2", ["waveform"], ["level"], axes=[1], keepdims=1),
        helper.make_node("Neg", ["level"], ["quiet"]),
        helper.make_node("Concat", ["level", "quiet"], ["logits"], axis=1),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    given = helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["batch", "samples"])
    made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])
    model = helper.make_model(
        helper.make_graph(nodes, "foreign", [given], [made]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    helper.set_model_props(model, {"labels": '["Loud", "Quiet"]', "sample_rate": str(rate), **metadata})
    onnx.save(model, path)
    return path


def test_scores_alone_are_enough_to_tag(tmp_path: Path) -> None:
    tagger = Tagger(write_foreign(tmp_path / "foreign.onnx", clip_seconds="2.0"), jobs=1)
    (recording,) = write_tones(tmp_path, ["tone.wav"])
    result = tagger(recording)
    assert (tagger.window, tagger.model.sample_rate, tagger.labels) == (2.0, 16_000, ("Loud", "Quiet"))
    assert result.embedding is None
    assert result.top(1)[0][0] == "Loud"
    assert result.scores.sum() == pytest.approx(1)  # sigmoid(x) + sigmoid(-x)


def test_what_needs_another_output_says_so(tmp_path: Path) -> None:
    tagger = Tagger(write_foreign(tmp_path / "foreign.onnx"), jobs=1)
    write_tones(tmp_path / "loud", ["tone.wav"])
    found = find_recordings([str(tmp_path / "loud")])
    for outputs, name in (
        (Outputs(folder=tmp_path / "o", embeddings=True), "embedding"),
        (Outputs(plot=True), "log_mel"),
    ):
        with pytest.raises(ModelError, match=f'foreign.onnx: has no output "{name}"'):
            run(found, tagger, Options(), outputs, quiet=True)
    with pytest.raises(ModelError, match='has no output "embedding"'):
        teach(tmp_path, tmp_path / "mine.onnx", tagger)


def test_a_refusal_names_all_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["audio"], ["clipwise"])],
        "other",
        [value("audio", TensorProto.FLOAT, [1, 160_000])],
        [value("clipwise", TensorProto.FLOAT, [1, 160_000])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(ModelError) as error:
        Tagger(path)
    assert str(error.value) == (
        f'{path}: not a tagger: it lacks an input "waveform"; a value for its input "audio"; an output "scores"; '
        '"labels" in its metadata; "sample_rate" in its metadata; docs/api.md has the contract'
    )


def test_fixed_axes_are_named(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "fixed.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 160_000
    onnx.save(model, path)
    with pytest.raises(
        ModelError, match=r'dynamic axes \(batch, samples\) of "waveform" \(it has \[.batch., 160000\]\)'
    ):
        Tagger(path)


def test_an_export_has_its_labels_beside_it(tagger_file: Path) -> None:
    beside = json.loads(labels_file(tagger_file).read_text(encoding="utf-8"))
    metadata = onnxruntime.InferenceSession(str(tagger_file)).get_modelmeta().custom_metadata_map
    assert beside == {"labels": json.loads(metadata["labels"]), "sample_rate": 32_000}
    assert len(beside["labels"]) == 527


def test_the_labels_beside_the_embedded_tagger_are_its_own() -> None:
    tagger = Tagger()
    facts = json.loads(labels_file(tagger.model.path).read_text(encoding="utf-8"))
    assert facts == {
        "labels": list(tagger.labels),
        "sample_rate": tagger.model.sample_rate,
        **{key: tagger.metadata[key] for key in ("clip_seconds", "hop_seconds", "masked") if key in tagger.metadata},
    }
