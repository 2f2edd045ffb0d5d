"""What the embedded tagger hears of open sounds, beside its teacher, on the test recordings and the test scenes.

    python benchmarks/embedded.py data/open_sounds/test.h5 data/open_sounds/test_scenes.h5 [--teacher teacher.onnx]

Both are scored over the classes that the tagger was trained on and that the file has; the teacher hears whole clips or,
without `--teacher`, counts by the scores stored in the file (those of scenes are joined from their recordings'). "Well
covered" are the classes of at least 10 recordings from at least 3 packages. Intervals are 95 %, over resamples of the
clips; that of the ratio resamples both taggers' clips together.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # else benchmarks/preprocessing.py hides the package

from audioset_dcls.evaluation.metrics import (
    average_precision,
    bootstrap_average_precision,
    interval,
    resample_clips,
    top_hits,
)
from audioset_dcls.evaluation.predictions import length_name
from audioset_dcls.folders import data_folder
from audioset_dcls.tagging.tagger import Options, Result, Tagger
from preprocessing.hdf5 import INT16_SCALE, SAMPLE_RATE, ClipFile
from preprocessing.open_sounds import load_recording_list
from preprocessing.teacher import OnnxTeacher

RESAMPLES = 1000


def well_covered() -> set[str]:
    recordings: Counter[str] = Counter()
    packages = defaultdict(set)
    for recording in load_recording_list():
        for label in recording.labels:
            recordings[label] += 1
            packages[label].add(recording.package)
    return {label for label in recordings if recordings[label] >= 10 and len(packages[label]) >= 3}


def teacher_scores(data: ClipFile, teacher: Path | None) -> NDArray[np.float32]:
    everything = np.arange(len(data))
    if teacher is None:
        return data.read("teacher", everything).astype(np.float32)
    heard = OnnxTeacher(teacher)
    lengths = np.full(len(data), data.samples) if data.lengths is None else data.lengths
    clips = (data.waveforms([clip])[:, : lengths[clip]].astype(np.float32) / INT16_SCALE for clip in everything)
    return np.concatenate([heard(clip)[0] for clip in clips])


def tagger_scores(data: ClipFile, tagger: Tagger, seconds: float | None, silence: bool) -> NDArray[np.float32]:
    """As `dcls-tag` hears the clips, without the zeros that pad them, or their first seconds.

    silence: behind what is shorter than a window, up to its length.
    """
    lengths = np.full(len(data), data.samples) if data.lengths is None else data.lengths
    if seconds is not None:
        lengths = np.minimum(lengths, round(seconds * SAMPLE_RATE))
    clips = (data.waveforms([i])[0, : lengths[i]].astype(np.float32) / INT16_SCALE for i in range(len(data)))
    if silence:
        window = round(tagger.window * SAMPLE_RATE)
        clips = (np.pad(clip, (0, max(window - len(clip), 0))) for clip in clips)
    results = tagger.tag_all(clips, Options(timeline=False, embeddings=False), raise_failures=True)
    return np.stack([result.scores for result in results if isinstance(result, Result)])


def compared(
    path: Path, model: Path, heard_by: Path | None, lengths: Sequence[float | None], silence: bool
) -> Iterator[str]:
    """Rows of the table for one file of clips."""
    data, tagger = ClipFile(path), Tagger(model)
    targets = data.read("target", np.arange(len(data))).astype(np.bool_)
    teacher = teacher_scores(data, heard_by)
    known = np.array([label not in tagger.metadata.get("masked", ()) for label in data.labels])
    often = well_covered()
    covered = known & np.array([label in often for label in data.labels])
    for seconds in lengths:
        scores = tagger_scores(data, tagger, seconds, silence)
        for name, chosen in (("all", known), ("well covered", covered)):
            yield _row(f"{path.stem}, {length_name(seconds)}, {name}", targets, scores, teacher, chosen)


def _row(
    name: str, targets: NDArray[np.bool_], scores: NDArray[Any], teacher: NDArray[Any], chosen: NDArray[np.bool_]
) -> str:
    """All classes compete for the top 3; what is counted are the clips with a chosen label."""
    present = chosen & targets.any(axis=0)
    clips = targets[:, present].any(axis=1)
    truth = targets[clips][:, present]
    cells = []
    samples, hits = [], []
    for values in (scores, teacher):
        precision = average_precision(truth, values[clips][:, present])
        draws = resample_clips(len(truth), RESAMPLES)
        resampled = np.nanmean(bootstrap_average_precision(truth, values[clips][:, present], draws), axis=1)
        low, high = interval(resampled, precision.mean())
        samples.append(resampled)
        hit = np.array(
            [top_hits(t[None], s[None]) for t, s in zip(targets[clips] & present, values[clips], strict=True)]
        )
        hits.append(hit)
        cells.append(f"{precision.mean():.3f} ({low:.3f} to {high:.3f}) | {hit.mean():.3f}")
    draws = np.random.default_rng(0).integers(len(hits[0]), size=(RESAMPLES, len(hits[0])))
    low, high = np.quantile(hits[0][draws].mean(1) / hits[1][draws].mean(1), (0.025, 0.975))
    ratio = f"{hits[0].mean() / hits[1].mean():.2f} ({low:.2f} to {high:.2f})"
    return f"| {name} | {clips.sum()} | {present.sum()} | {' | '.join(cells)} | {ratio} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, default=data_folder("checkpoints") / "tagger.onnx")
    parser.add_argument("--teacher", type=Path, help="ONNX file, see preprocessing/teacher.py")
    parser.add_argument("--seconds", nargs="*", type=float, default=[], help="cut the clips to these lengths too")
    parser.add_argument("--silence", action="store_true", help="behind clips shorter than a window, up to its length")
    options = parser.parse_args()
    print("| clips of, length, classes | clips | classes | mAP | top 3 | teacher's mAP | its top 3 | ratio of top 3 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in options.files:
        for row in compared(path, options.model, options.teacher, [None, *options.seconds], options.silence):
            print(row, flush=True)


if __name__ == "__main__":
    main()
