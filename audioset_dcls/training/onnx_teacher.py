"""A teacher: another tagger, as an ONNX file, whose scores and embeddings are learned from. Runs without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from audioset_dcls.tagging.session import available_providers, open_session
from preprocessing.audio import SAMPLE_RATE
from preprocessing.terminal import first_line

Floats = npt.NDArray[np.float32]


class TeacherError(ValueError):
    """A teacher that cannot be used; one line that names the file."""


class OnnxTeacher:
    """Waveforms, float32 (B, samples) in [-1, 1] at 32 kHz -> scores in [0, 1], (B, C), and embeddings (B, D) or None.

    The file's output "scores" is taken, or the first if none has that name, and "embedding" if there is one.

    Attributes: `num_classes`, C; `embedding_size`, D or 0. Raises TeacherError for a file that is no such tagger.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        if not Path(path).is_file():
            raise TeacherError(f"{path}: no such file; give an ONNX file, waveform to scores")
        providers = [name for name in available_providers() if name.startswith(("CUDA", "CPU"))]
        try:
            self._session = open_session(path, providers, threads)
            self._input = self._session.get_inputs()[0].name
            outputs = [output.name for output in self._session.get_outputs()]
            self._outputs = ["scores" if "scores" in outputs else outputs[0]]
            self._outputs += ["embedding"] if "embedding" in outputs else []
            scores, embedding = self(np.zeros((2, SAMPLE_RATE), np.float32))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise TeacherError(
                f"{path}: no ONNX model from waveforms (B, samples) to scores ({first_line(error)})"
            ) from error
        if scores.ndim != 2 or len(scores) != 2 or (embedding is not None and embedding.ndim != 2):
            raise TeacherError(f"{path}: its scores have the shape {scores.shape[1:]} a waveform, not (classes,)")
        self.num_classes = int(scores.shape[1])
        self.embedding_size = 0 if embedding is None else int(embedding.shape[1])

    def __call__(self, waveform: Floats) -> tuple[Floats, Floats | None]:
        scores, *embedding = self._session.run(self._outputs, {self._input: np.ascontiguousarray(waveform, np.float32)})
        return scores, embedding[0] if embedding else None
