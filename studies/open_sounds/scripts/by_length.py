"""Prints macro and micro mAP of evaluated runs on short and long recordings apart, mean ± sample deviation, in percent.

python studies/open_sounds/scripts/by_length.py runs/study data/open_sounds/test.h5
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audioset_dcls.evaluation.compare_report import mean_and_std
from audioset_dcls.evaluation.metrics import mean_average_precision, micro_average_precision
from audioset_dcls.evaluation.runs import CHECKPOINT, evaluation_folder, find_runs
from preprocessing.clips.reader import ClipFile
from preprocessing.constants import SAMPLE_RATE

LIMITS = (0, 1, 2.56, 10.01)  # seconds; the study's models learn from scenes of 2.56 s


class Scores(NamedTuple):
    """Seconds of N clips, their targets and scores, (N, C)."""

    length: NDArray[np.float64]
    targets: NDArray[np.bool_]
    scores: NDArray[np.float32]


def main(folder: Path, data: Path) -> None:
    clips = ClipFile(data)
    assert clips.lengths is not None
    seconds = dict(zip(clips.audio_names(), clips.lengths / SAMPLE_RATE, strict=True))
    experiments: dict[str, list[Scores]] = {}
    for run in find_runs(folder):
        predictions = evaluation_folder(run / CHECKPOINT, data) / "predictions.npz"
        if not predictions.exists():
            continue
        with np.load(predictions) as stored:
            length = np.array([seconds[name.decode()] for name in stored["clips"]])
            scores = Scores(length, stored["targets"], stored["scores"])
        experiments.setdefault(str(run.parent.relative_to(folder)), []).append(scores)
    print("| experiment |", " | ".join(f"{low:g} to {high:g} s" for low, high in pairwise(LIMITS)), "|")
    print("| --- |" + " --- |" * (len(LIMITS) - 1))
    for experiment, runs in experiments.items():
        print(f"| {experiment} |", " | ".join(cell(runs, low, high) for low, high in pairwise(LIMITS)), "|")


def cell(runs: list[Scores], low: float, high: float) -> str:
    parts = [(run, (run.length >= low) & (run.length < high)) for run in runs]
    macro = [mean_average_precision(run.targets[part], run.scores[part]) for run, part in parts]
    micro = [micro_average_precision(run.targets[part], run.scores[part]) for run, part in parts]
    means = f"macro {mean_and_std('mAP', macro)}; micro {mean_and_std('micro_mAP', micro)}"
    return f"{means} ({parts[0][1].sum()} clips)"


main(Path(sys.argv[1]), Path(sys.argv[2]))
