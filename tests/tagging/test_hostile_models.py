"""ONNX files that are no taggers or say absurd things of themselves: one line each, before anything is decoded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper

from audioset_dcls.inference.predict import load_scorer
from audioset_dcls.tagging.session import ModelError, OnnxModel
from audioset_dcls.tagging.tagger import Tagger
from tests.test_imports import ROOT, write_tagger

GOOD = {"labels": json.dumps(["Speech", "Dog", "Bark"]), "sample_rate": "32000"}


def changed(path: Path, change: Callable[[Any], object] | None = None, **properties: str | None) -> Path:
    """The smallest tagger with other properties or another graph."""
    write_tagger(path)
    model = onnx.load(path)
    del model.metadata_props[:]
    helper.set_model_props(model, {key: value for key, value in (GOOD | properties).items() if value is not None})
    if change is not None:
        change(model.graph)
    onnx.save(model, path)
    return path


def scores_by(operator: str, *inputs: str) -> Callable[[Any], object]:
    """The scores are what one operator makes of these inputs."""

    def change(graph: Any) -> None:
        (node,) = (node for node in graph.node if node.output[0] == "scores")
        node.CopyFrom(helper.make_node(operator, list(inputs), ["scores"]))
        graph.initializer.append(helper.make_tensor("seven", TensorProto.INT64, [2], [7, 3]))

    return change


def five_scores(graph: Any) -> None:
    (node,) = (node for node in graph.node if node.output[0] == "scores")
    node.input.extend(["score", "score"])


def other_input(kind: int, shape: list[Any]) -> Callable[[Any], object]:
    def change(graph: Any) -> None:
        del graph.input[:]
        graph.input.append(helper.make_tensor_value_info("waveform", kind, shape))

    return change


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({"labels": None}, 'it lacks "labels" in its metadata;'),
        ({"sample_rate": None}, 'it lacks "sample_rate" in its metadata;'),
        ({"labels": "Speech"}, "labels is no JSON"),
        ({"labels": "[" * 100_000}, "labels is no JSON"),
        ({"labels": "{}"}, "labels are {}"),
        ({"labels": "[]"}, "labels are []"),
        ({"labels": '["a", 2, null]'}, "labels hold 2"),
        ({"labels": '["a", "", "c"]'}, "labels hold ''"),
        ({"labels": json.dumps(["x" * 10**6] * 3)}, "expected names of 1 to"),
        ({"labels": '["a", "b", "\\ud800"]'}, "labels hold"),
        ({"sample_rate": "1e12"}, "sample_rate is 1000000000000.0"),
        ({"sample_rate": str(10**12)}, "sample_rate is 1000000000000"),
        ({"sample_rate": "-32000"}, "sample_rate is -32000"),
        ({"sample_rate": "NaN"}, "sample_rate is nan"),
        ({"sample_rate": "true"}, "sample_rate is True"),
        ({"sample_rate": "fast"}, "sample_rate is no JSON"),
        ({"sample_rate": "9" * 5000}, "sample_rate is no JSON"),
        ({"clip_seconds": "1e9"}, "clip_seconds is 1000000000.0"),
        ({"clip_seconds": "NaN"}, "clip_seconds is nan"),
        ({"clip_seconds": "long"}, "clip_seconds is 'long'"),
        ({"clip_seconds": "0"}, "clip_seconds is 0"),
        ({"hop_seconds": "1e-9"}, "hop_seconds is 1e-09"),
        ({"hop_seconds": "[1]"}, "hop_seconds is [1]"),
        ({"clip_seconds": "2", "hop_seconds": "3"}, "hop_seconds is 3"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_file_says_of_itself(tmp_path: Path, properties: dict[str, str | None], said: str) -> None:
    path = changed(tmp_path / "hostile.onnx", **properties)
    with pytest.raises(ModelError, match=r"^[^\n]*hostile\.onnx: [^\n]{1,600}$") as error:
        OnnxModel(path)
    assert said in str(error.value)
    if "labels" in properties and properties["labels"] is not None:
        with pytest.raises(ValueError, match=r"^[^\n]*hostile\.onnx: [^\n]{1,600}$"):
            load_scorer(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (five_scores, "3 labels for 5 scores"),
        (other_input(TensorProto.DOUBLE, ["batch", "samples"]), "no ONNX model that ONNX Runtime can open"),
        (other_input(TensorProto.FLOAT, ["samples"]), "no ONNX model that ONNX Runtime can open"),
        (lambda graph: graph.output.pop(0), 'it lacks an output "scores";'),
    ],
)
def test_other_graphs(tmp_path: Path, change: Callable[[Any], object], said: str) -> None:
    with pytest.raises(ModelError, match=r"^[^\n]*hostile\.onnx: [^\n]{1,600}$") as error:
        OnnxModel(changed(tmp_path / "hostile.onnx", change))
    assert said in str(error.value)


def test_metadata_that_is_no_json_is_text(tmp_path: Path) -> None:
    deep = "[" * 100_000
    model = OnnxModel(changed(tmp_path / "x.onnx", license="MIT", note=deep, clip_seconds="2.5", scores='{"mAP": 0.5}'))
    assert model.metadata == {"license": "MIT", "note": deep, "clip_seconds": 2.5, "scores": {"mAP": 0.5}}
    assert Tagger(tmp_path / "x.onnx").window == 2.5


@pytest.mark.parametrize(
    "change",
    [scores_by("Sigmoid", "waveform"), scores_by("Reshape", "waveform", "seven")],
    ids=["a score for each sample", "no shape for a waveform"],
)
def test_what_shows_only_when_it_runs(tmp_path: Path, change: Callable[[Any], object]) -> None:
    changed(tmp_path / "hostile.onnx", change)
    soundfile.write(tmp_path / "x.wav", np.zeros(8000), 32_000)
    with pytest.raises(ModelError, match=r"^[^\n]*hostile\.onnx: (scores of shape|fails on a waveform)[^\n]{1,600}$"):
        Tagger(tmp_path / "hostile.onnx")(tmp_path / "x.wav")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from audioset_dcls.commands.tag import main; main()"
    command = [sys.executable, "-c", code, "--model", "hostile.onnx", "x.wav"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dcls-tag: hostile.onnx: ")
    assert len(done.stderr.splitlines()) == 1
