"""The exported file in OpenVINO, as docs/tagging.md says to open it."""

from __future__ import annotations

import numpy as np
import openvino

from audioset_dcls.tagging.session import OnnxModel
from audioset_dcls.tagging.tagger import embedded_tagger
from preprocessing.audio import read_audio
from tests.conftest import RECORDINGS, first_labels


def test_openvino_scores_the_same_in_float32() -> None:
    """Within 1e-4 of ONNX Runtime's (6e-6 measured). Without the hint a CPU with bfloat16 computes in that: 0.33."""
    path = embedded_tagger()
    ours = OnnxModel(path)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for file in list(first_labels())[:4]:
        waveform = read_audio(RECORDINGS / file)[None, :160_000]
        scores = compiled({"waveform": waveform})[compiled.output("scores")]
        np.testing.assert_allclose(scores, ours.run(waveform)[0], atol=1e-4, rtol=0)
