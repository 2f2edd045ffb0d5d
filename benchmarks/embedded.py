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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # else benchmarks/preprocessing.py hides the package

from audioset_dcls.evaluation.metrics import average_precision, bootstrap_average_precision, interval, top_hits
from audioset_dcls.folders import data_folder
from audioset_dcls.training.predict import load_scorer, predict_lengths
from preprocessing.hdf5 import INT16_SCALE, ClipFile
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


def compared(path: Path, model: Path, heard_by: Path | None) -> list[str]:
    """Rows of the table for one file of clips."""
    scorer = load_scorer(model)
    predictions = predict_lengths(scorer, path)
    data = ClipFile(path)
    teacher = teacher_scores(data, heard_by)
    masked = set(scorer.metadata.get("masked", ()))
    known = np.array([label not in masked for label in predictions.labels])
    covered = well_covered()
    rows = []
    for name, chosen in (
        ("all", known),
        ("well covered", known & np.array([label in covered for label in predictions.labels])),
    ):
        for length, scores in predictions.scores.items():
            rows.append(_row(f"{path.stem}, {name}, {length}", predictions.targets, scores, teacher, chosen))
    return rows


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
        resampled = np.nanmean(bootstrap_average_precision(truth, values[clips][:, present], RESAMPLES), axis=1)
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
    options = parser.parse_args()
    print("| clips of, classes, length | clips | classes | mAP | top 3 | teacher's mAP | its top 3 | ratio of top 3 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in options.files:
        print("\n".join(compared(path, options.model, options.teacher)), flush=True)


if __name__ == "__main__":
    main()
