"""Scenes made once and kept as an HDF5 file, with what a teacher hears in each: to train on for many epochs.

Making and scoring a scene costs as much as a step of a small tagger on it.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from preprocessing.audioset import progress_bar, start_pool
from preprocessing.cores import usable_cores
from preprocessing.hdf5 import INT16_SCALE, ClipFile, ClipFileError, ClipWriter, Written, hash_ids
from preprocessing.scenes import Scenes, drawing_weights, load_recordings
from preprocessing.teacher import OnnxTeacher, TeacherError

LEVEL = -30.0, -1.0  # dB of the recordings: what phones and cameras record is often faint
SYNTHETIC_WEIGHT = 0.5  # a thousand renderings would drown the few recordings there are of some instruments
_BATCH = 32  # scenes made, scored and written at once; part of the result: a teacher's rounding depends on it


class Batch(NamedTuple):
    """What one worker made: int16 (B, samples), bool (B, C), float16 (B, C), float16 (B, D) or None."""

    waveform: npt.NDArray[np.int16]
    target: npt.NDArray[np.bool_]
    teacher: npt.NDArray[np.float16]
    embedding: npt.NDArray[np.float16] | None


def pack_scenes(
    recordings: Sequence[str | Path],
    output: str | Path,
    *,
    count: int,
    seconds: float = 2.56,
    most: int = 2,
    seed: int = 0,
    synthetic: Sequence[str | Path] = (),
    teacher: str | Path | None = None,
    workers: int | None = None,
) -> Written:
    """Write `count` scenes of one to `most` recordings to the HDF5 file `output`; go on where a run before was cut off.

    recordings, synthetic: HDF5 files of clips as `dcls-prepare open-sounds` makes them; rare classes are drawn more
        often (`drawing_weights`), synthetic ones half as often as recorded ones.
    teacher: an ONNX file, see `OnnxTeacher`; its scores, and its embeddings where it has them, are stored. Without one
        the recordings' own stored scores are, joined as `Scenes` says.

    Scene i is a function of the arguments and i alone: the file is the same to the byte however often it was
    interrupted and on however many processes. `count` may change between runs: a lower one ends at what there is.

    Raises ClipFileError and TeacherError for files that cannot be used and where `output` exists.
    """
    paths = [*recordings, *synthetic]
    loaded = load_recordings(paths)
    sizes = [len(ClipFile(path)) for path in paths]
    weight = drawing_weights(loaded.target)
    weight[sum(sizes[: len(recordings)]) :] *= SYNTHETIC_WEIGHT
    scenes = Scenes(loaded, count, seconds, (1, most), seed=seed, level=LEVEL, weight=weight)
    settings: dict[str, Any] = {"seconds": seconds, "most": most, "seed": seed, "synthetic": len(synthetic)}
    settings["recordings"] = [hash_ids(ClipFile(path).audio_names()) for path in paths]
    labels = ClipFile(paths[0]).labels
    embedding_size = 0
    if teacher is not None:
        opened = OnnxTeacher(teacher)
        if opened.num_classes != len(labels):
            raise TeacherError(f"{teacher}: scores {opened.num_classes} classes, the recordings have {len(labels)}")
        embedding_size = opened.embedding_size
        settings["teacher"] = hashlib.sha256(Path(teacher).read_bytes()).hexdigest()
    has_teacher = teacher is not None or loaded.teacher is not None
    source = f"scenes {json.dumps(settings)}"
    with (
        ClipWriter(
            output, labels, samples=scenes.samples, teacher=has_teacher, embedding=embedding_size, source=source
        ) as writer,
        progress_bar() as progress,
    ):
        task = progress.add_task(writer.path.name, total=count, completed=len(writer))
        for batch in _make_all(scenes, teacher, range(len(writer), count), workers):
            names = [f"scene_{len(writer) + row:07d}" for row in range(len(batch.waveform))]
            writer.append(names, batch.waveform, batch.target, teacher=batch.teacher, embedding=batch.embedding)
            progress.advance(task, len(names))
        return writer.finish()


def _make_all(scenes: Scenes, teacher: str | Path | None, indices: range, workers: int | None) -> Iterator[Batch]:
    """The scenes, in their order; each process is at most two batches ahead, so that memory does not grow."""
    workers = workers or usable_cores()
    batches = [indices[first : first + _BATCH] for first in range(0, len(indices), _BATCH)]
    pending: deque[Future[Batch]] = deque()
    pool: ProcessPoolExecutor = start_pool(min(workers, max(len(batches), 1)), _start, (scenes, teacher))
    try:
        for batch in batches:
            pending.append(pool.submit(_make, batch))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise ClipFileError("a process that makes scenes was killed (out of memory?); run the same to go on") from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}  # of a worker process: what it makes scenes with


def _start(scenes: Scenes, teacher: str | Path | None) -> None:
    _worker.update(scenes=scenes, teacher=OnnxTeacher(teacher) if teacher is not None else None)


def _make(indices: range) -> Batch:
    made = [_worker["scenes"][index] for index in indices]
    waveform, target, joined = (np.stack([scene[name] for scene in made]) for name in ("waveform", "target", "teacher"))
    if _worker["teacher"] is None:
        return Batch(waveform, target, joined, None)
    scores, embedding = _worker["teacher"](waveform.astype(np.float32) / INT16_SCALE)
    return Batch(waveform, target, scores.astype(np.float16), None if embedding is None else embedding.astype("f2"))
