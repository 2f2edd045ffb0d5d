"""Prints macro and micro mAP of evaluated runs on short and long recordings apart, mean ± sample deviation, in percent.

python docs/results/by_length.py runs/study data/open_sounds/test.h5
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from audioset_dcls.evaluation.metrics import mean_average_precision, micro_average_precision
from preprocessing.constants import SAMPLE_RATE
from preprocessing.hdf5 import ClipFile

LIMITS = (0, 1, 2.56, 10.01)  # seconds; the study's models learn from scenes of 2.56 s


def mean_and_deviation(values: list[float]) -> str:
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def main(folder: Path, data: Path) -> None:
    clips = ClipFile(data)
    assert clips.lengths is not None
    seconds = dict(zip(clips.audio_names(), clips.lengths / SAMPLE_RATE, strict=True))
    counts = [int(np.sum([low <= length < high for length in seconds.values()])) for low, high in pairwise(LIMITS)]
    parts = [
        f"{low:g} to {high:g} s, {count} clips" for count, (low, high) in zip(counts, pairwise(LIMITS), strict=True)
    ]
    print("| experiment |", " | ".join(parts), "|")
    print("| --- |" + " --- |" * len(parts))
    for experiment in sorted({path.parent.parent.parent for path in folder.rglob(f"best-on-{data.stem}/*.npz")}):
        runs = [np.load(path) for path in sorted(experiment.rglob(f"best-on-{data.stem}/predictions.npz"))]
        cells = []
        for low, high in pairwise(LIMITS):
            values: dict[str, list[float]] = {"macro": [], "micro": []}
            for run in runs:
                length = np.array([seconds[name.decode()] for name in run["clips"]])
                part = (length >= low) & (length < high)
                targets, scores = run["targets"][part], run["scores"][part]
                values["macro"].append(100 * mean_average_precision(targets, scores))
                values["micro"].append(100 * micro_average_precision(targets, scores))
            cells.append("; ".join(f"{name} {mean_and_deviation(these)}" for name, these in values.items()))
        print(f"| {experiment.relative_to(folder)} |", " | ".join(cells), "|")


main(Path(sys.argv[1]), Path(sys.argv[2]))
