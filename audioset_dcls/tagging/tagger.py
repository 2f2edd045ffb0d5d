"""Tagging: audio in; scores, events and embeddings out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from audioset_dcls.folders import data_folder
from audioset_dcls.models.hugging_face import ONNX_FILE, WEIGHTS_FILE, HubError, fetch, is_on_hub
from audioset_dcls.tagging.events import Event
from audioset_dcls.tagging.exported import exported
from audioset_dcls.tagging.pipeline import Pipeline
from audioset_dcls.tagging.results import THRESHOLD, TOP, Decode, Failure, OneChannel, Options, Result, Source
from audioset_dcls.tagging.session import ModelError, OnnxModel
from audioset_dcls.tagging.waveforms import is_waveform, to_waveform
from audioset_dcls.tagging.windows import LONGEST_WINDOW
from preprocessing.audio import MIX, AudioError, iter_audio
from preprocessing.cores import usable_cores

__all__ = ["AudioError", "Event", "Failure", "ModelError", "OneChannel", "Options", "Result", "Tagger"]

EMBEDDED = "tagger.onnx"  # in checkpoints/: what `Tagger()` opens


class Tagger:
    """Tags recordings with an exported model; torch is not imported.

    Args:
        model: None for the embedded tagger; the path of an .onnx file that `dcls-export` wrote; "hf:owner/name" or
            "hf:owner/name@revision" on the Hugging Face Hub (an ONNX file there, else a checkpoint); or what
            `load_checkpoint` takes, a path or a published name. A checkpoint needs torch once, to export it into the
            cache.
        device: "cpu", or "cuda" with onnxruntime-gpu.
        jobs: threads that decode, and on the CPU as many that run the model; all cores by default.

    Raises ModelError if the model cannot be opened.

    >>> tagger = Tagger()                                       # doctest: +SKIP
    >>> tagger("clip.wav").top(2)                               # doctest: +SKIP
    [('Dog', 0.93), ('Bark', 0.88)]
    """

    def __init__(self, model: str | Path | None = None, device: str = "cpu", jobs: int | None = None) -> None:
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs must be at least 1, not {jobs}")
        self._opened = model, device, jobs
        self.model: OnnxModel = open_model(model, device)
        self.jobs = jobs or usable_cores()

    def __reduce__(self) -> tuple[type[Tagger], tuple[Any, ...]]:
        """A pickled tagger is opened anew where it arrives, by its name or path."""
        return Tagger, self._opened

    def __repr__(self) -> str:
        return f"<Tagger {self.model.path.name}, {len(self.labels)} classes, windows of {self.window:g} s>"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.model.labels

    @property
    def metadata(self) -> dict[str, Any]:
        return self.model.metadata

    @property
    def masked(self) -> frozenset[str]:
        """Classes that it cannot hear: they had too few clips in training."""
        return frozenset(self.metadata.get("masked") or ())

    @property
    def clip_seconds(self) -> float:
        """The length of the clips in training; 10 s if unknown."""
        return float(self.metadata.get("clip_seconds", LONGEST_WINDOW))

    @property
    def window(self) -> float:
        """Seconds that a window lasts by default: the length of the clips in training, 10 s at most."""
        return min(self.clip_seconds, LONGEST_WINDOW)

    @property
    def hop(self) -> float:
        """Seconds from window to window by default."""
        return float(self.metadata.get("hop_seconds", self.window / 2))

    def __call__(
        self,
        source: Source,
        sample_rate: int | None = None,
        *,
        window: float | None = None,
        hop: float | None = None,
        threshold: float = THRESHOLD,
        top: int = TOP,
        labels: Sequence[str] | None = None,
        channel: str | int = MIX,
        timeline: bool = True,
        embeddings: bool = True,
        thresholds: Mapping[str, float] | None = None,
    ) -> Result:
        """Tag one recording: a path, a binary file object, the bytes of a file, or a waveform (samples,).

        Args:
            sample_rate: of a waveform, Hz; 32 kHz if it is not given. A waveform is a NumPy array or a torch tensor:
                floats in [-1, 1], or int8, int16, int32, uint8, which are scaled.

        The others are those of `Options`.

        Raises AudioError for a source without sound to tag, ValueError for options that cannot be.
        """
        if is_waveform(source):
            source = to_waveform(source, sample_rate, self.model.sample_rate)
        elif sample_rate is not None:
            raise ValueError("sample_rate is for waveforms; a file has its own")
        chosen = None if labels is None else tuple(labels)
        options = Options(window, hop, threshold, top, chosen, channel, timeline, embeddings, thresholds)
        result = next(self.tag_all([source], options, raise_failures=True))
        assert isinstance(result, Result)
        return result

    def tag_all(
        self,
        sources: Source | Iterable[Source],
        options: Options | None = None,
        raise_failures: bool = False,
        on_audio: Callable[[float], None] | None = None,
        decode: Decode = iter_audio,
    ) -> Generator[Result | Failure, None, None]:
        """Tag many recordings, in order, decoding ahead and batching windows across recordings.

        Args:
            sources: what `__call__` takes, many of them; a single path, waveform or bytes is one source.

        A recording that cannot be read gives a Failure (with `raise_failures`, its AudioError) and the rest goes on.
        on_audio: called with the seconds of audio that each window adds, for progress within long recordings.
        decode: called like `iter_audio`, from several threads; `DecoderPool.iter_audio` decodes in other processes.
        """
        many: Any = [sources] if _is_single(sources) else sources
        pipeline = Pipeline(self.model, many, (options or Options()).of(self), self.jobs, decode)
        return pipeline.results(raise_failures, on_audio or (lambda seconds: None))


def _is_single(sources: Any) -> bool:
    """If it is one source; an array of two axes is many waveforms."""
    return isinstance(sources, str | Path | bytes) or (is_waveform(sources) and sources.ndim == 1)


def open_model(model: str | Path | None = None, device: str = "cpu") -> OnnxModel:
    """The embedded tagger (None), an exported one (a path ending in .onnx), "hf:...", or what `load_checkpoint` takes.

    A checkpoint or a published name is exported on first use and kept in the cache. Raises ModelError.
    """
    if model is None:
        return OnnxModel(embedded_tagger(), device)
    if is_on_hub(model):
        try:
            path = fetch(str(model), [ONNX_FILE, WEIGHTS_FILE])
        except HubError as error:
            raise ModelError(str(error)) from error
        return OnnxModel(path, device) if path.suffix == ".onnx" else OnnxModel(exported(path), device)
    path = Path(model)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ModelError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; check --model")
        return OnnxModel(path, device)
    return OnnxModel(exported(model), device)


def embedded_tagger() -> Path:
    """The tagger that comes with the project. Raises ModelError if it is missing."""
    try:
        path = data_folder("checkpoints") / EMBEDDED
    except FileNotFoundError as error:
        raise ModelError(str(error)) from error
    if not path.is_file():
        raise ModelError(
            f"{path}: no embedded tagger in this installation; give one with --model tagger.onnx "
            "(dcls-export CHECKPOINT tagger.onnx makes one)"
        )
    return path
