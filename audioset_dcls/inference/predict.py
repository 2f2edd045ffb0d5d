"""Run a trained tagger over a file of clips: every clip once, on one process or many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from audioset_dcls.evaluation.predictions import Predictions, length_name
from audioset_dcls.models import load_checkpoint
from audioset_dcls.models.waveform import WaveformTagger
from audioset_dcls.tagging.session import available_providers, open_session
from preprocessing import checks
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.layout import INT16_SCALE
from preprocessing.clips.reader import ClipFile
from preprocessing.loading.dataset import empty_batch, shared_memory_errors, workers_that_fit
from preprocessing.progress import progress_bar
from preprocessing.terminal import first_line, printable


class Scorer(NamedTuple):
    """A tagger ready to score: `score` takes waveforms, int16 (B, samples), and gives probabilities, float32 (B, C)."""

    score: Callable[[Tensor], NDArray[np.float32]]
    labels: tuple[str, ...]
    metadata: dict[str, Any]
    parameters: int | None  # as trained, before folding; None for an exported tagger


def predict(
    model_path: str | Path,
    data_path: str | Path,
    seconds: float | None = None,
    batch_size: int = 32,
    device: str | None = None,
    num_workers: int = 2,
) -> tuple[list[str], NDArray[np.bool_], NDArray[np.float32]]:
    """Names (N), targets (N, C) and scores (N, C) of a file's clips, cut to their first `seconds` if given.

    Args:
        model_path: an `.onnx` tagger or whatever `load_checkpoint` takes.
        device: "cuda" if there is one by default.

    If torch.distributed is initialised each process scores its share, and all return the whole.

    Raises ValueError if the model lacks a class of the data or a score is not finite (ClipFileError and
    CheckpointError are such), OSError for a file that cannot be read.
    """
    scorer = load_scorer(model_path, device)
    predictions = predict_lengths(scorer, data_path, (seconds,), batch_size, num_workers)
    (scores,) = predictions.scores.values()
    return list(predictions.clips), predictions.targets, scores


def predict_lengths(
    scorer: Scorer,
    data_path: str | Path,
    lengths: Sequence[float | None] = (None, 5.0, 2.0, 1.0),
    batch_size: int = 32,
    num_workers: int = 2,
) -> Predictions:
    """Scores of the clips at several lengths, each clip read once. Lengths that cut nothing off are left out.

    A clip is given to the tagger without the zeros that pad it, as far as the file knows them (`ClipFile.lengths`), and
    a cut one as it is, without padding to the length that the tagger was trained on.
    """
    data = ClipFile(data_path)
    columns = matching_columns(scorer.labels, data.labels, data_path)
    clip_seconds = data.samples / SAMPLE_RATE
    lengths = [seconds for seconds in lengths if seconds is None or seconds < clip_seconds] or [None]
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share = np.arange(rank, len(data), processes)
    batches = [share[first : first + batch_size] for first in range(0, len(share), batch_size)]
    workers = workers_that_fit(num_workers, 2 * data.samples * min(batch_size, len(data)), processes)
    loader: DataLoader[Tensor] = DataLoader(_Batches(data, batches), batch_size=None, num_workers=workers)
    scored: list[list[NDArray[np.float32]]] = []
    with shared_memory_errors(), progress(f"scoring {Path(data_path).name}", len(share)) as advance:
        for waveform, clips in zip(loader, batches, strict=True):
            own = None if data.lengths is None else data.lengths[clips]
            scored.append([_score(scorer, _cut(waveform, seconds), own)[:, columns] for seconds in lengths])
            advance(len(waveform))
    empty = np.empty((0, len(data.labels)), np.float32)  # the share of a process beyond the number of clips
    parts = [np.concatenate([empty, *(scores[index] for scores in scored)]) for index in range(len(lengths))]
    return Predictions(
        clips=data.audio_names(),
        labels=data.labels,
        targets=data.read("target", np.arange(len(data))).astype(np.bool_),
        scores={length_name(seconds): _gathered(share, part) for seconds, part in zip(lengths, parts, strict=True)},
        sources=data.sources(),
    )


def load_scorer(model_path: str | Path, device: str | None = None) -> Scorer:
    """A tagger in its fastest form on that device; errors as of `predict`."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return (
        _onnx_scorer(Path(model_path), device)
        if str(model_path).endswith(".onnx")
        else _torch_scorer(model_path, device)
    )


def matching_columns(
    model_labels: Sequence[str], data_labels: Sequence[str], data_path: str | Path
) -> NDArray[np.intp]:
    """Which of the model's outputs each of the data's labels is. Raises ValueError if the model lacks one."""
    columns = {label: index for index, label in enumerate(model_labels)}
    missing = [label for label in data_labels if label not in columns]
    if missing:
        named = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{data_path}: {len(missing)} of its {len(data_labels)} classes are unknown to the model ({named}); "
            "evaluate a model that was trained on these classes"
        )
    return np.array([columns[label] for label in data_labels])


class _Batches(Dataset[Tensor]):
    """Item i: the waveforms of the i-th batch of clips, int16 (B, samples)."""

    def __init__(self, data: ClipFile, batches: Sequence[NDArray[np.intp]]) -> None:
        self.data, self.batches = data, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Tensor:
        if index >= len(self.batches):
            raise IndexError(index)
        clips = self.batches[index]
        waveform = empty_batch(len(clips), self.data.samples, torch.int16)
        self.data.read_waveforms(clips, waveform.numpy())
        return waveform


def _torch_scorer(model_path: str | Path, device: str) -> Scorer:
    model = load_checkpoint(model_path)
    labels = model.labels or tuple(map(str, range(model.config["num_classes"])))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tagger = WaveformTagger(model).to(device)

    @torch.inference_mode()
    def score(waveform: Tensor) -> NDArray[np.float32]:
        logits, _ = tagger(waveform.to(device, non_blocking=True))
        scores: NDArray[np.float32] = logits.sigmoid().cpu().numpy()
        return scores

    return Scorer(score, tuple(labels), model.metadata, parameters)


def _onnx_scorer(path: Path, device: str) -> Scorer:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; export one with dcls-export")
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    available = [name for name in wanted if name in available_providers()]
    try:
        session = open_session(path, [*available, "CPUExecutionProvider"], torch.get_num_threads())
    except ValueError as error:
        raise ValueError(f"{path}: not a readable ONNX file; export it again with dcls-export ({error})") from error
    properties = session.get_modelmeta().custom_metadata_map
    outputs = [output.name for output in session.get_outputs()]
    if "labels" not in properties or "scores" not in outputs:
        raise ValueError(f"{path}: no tagger exported by dcls-export (it lacks the output 'scores' or the labels)")
    try:
        labels = checks.labels(checks.parse_json(properties["labels"], "labels"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; export it again with dcls-export") from None
    given = session.get_inputs()[0].name

    def score(waveform: Tensor) -> NDArray[np.float32]:
        try:
            scores: NDArray[np.float32] = session.run(["scores"], {given: (waveform.float() / INT16_SCALE).numpy()})[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ValueError(f"{path}: fails on waveforms {tuple(waveform.shape)} ({first_line(error)})") from error
        if scores.shape != (len(waveform), len(labels)):
            raise ValueError(f"{path}: scores of shape {scores.shape} for {len(labels)} labels")
        return scores

    return Scorer(score, labels, dict(properties), None)


def _cut(waveform: Tensor, seconds: float | None) -> Tensor:
    return waveform if seconds is None else waveform[:, : round(seconds * SAMPLE_RATE)].contiguous()


def _score(scorer: Scorer, waveform: Tensor, lengths: NDArray[np.int64] | None) -> NDArray[np.float32]:
    """(B, C); clips of the same length together."""
    if lengths is None:
        return scorer.score(waveform)
    lengths = lengths.clip(max=waveform.shape[1])
    scores = np.empty((len(waveform), len(scorer.labels)), np.float32)
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        scores[alike] = scorer.score(waveform[alike, :length])
    return scores


def _gathered(share: NDArray[np.intp], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores of all processes' shares, in the order of the clips."""
    if not dist.is_initialized():
        return scores
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, (share, scores))
    whole = np.full((sum(len(indices) for indices, _ in shares), scores.shape[1]), np.nan, np.float32)
    for indices, part in shares:
        whole[indices] = part
    return whole


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, if that is a terminal and this is the first process."""
    from rich.progress import MofNCompleteColumn

    first = not dist.is_initialized() or dist.get_rank() == 0
    with progress_bar(MofNCompleteColumn(), **({} if first else {"disable": True})) as bar:
        task = bar.add_task(printable(description), total=total)
        yield lambda count=1: bar.advance(task, count)
