"""Prints what evaluated runs score with silence behind the short recordings, up to the length of a training scene.

Each experiment's macro and micro mAP, mean ± sample deviation, in percent, and its difference in macro mAP from the one
that its name begins with, or else from the first of those named.

python docs/results/padded.py runs/study data/open_sounds/test.h5 convnext convnext_dcls convformer fastvit
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audioset_dcls.evaluation.comparison import Comparison, mean_and_deviation
from audioset_dcls.evaluation.metrics import (
    bootstrap_average_precision,
    classes_with_positives,
    mean_average_precision,
    micro_average_precision,
)
from audioset_dcls.evaluation.runs import CHECKPOINT, Run
from audioset_dcls.training.predict import Scorer, load_scorer
from preprocessing.constants import SAMPLE_RATE
from preprocessing.hdf5 import ClipFile

SCENE = round(2.56 * SAMPLE_RATE)  # samples
BATCH = 8  # clips; larger ones are no faster on a core


def main(folder: Path, data: Path, *against: str) -> None:
    clips = ClipFile(data)
    assert clips.lengths is not None
    short = np.flatnonzero(clips.lengths < SCENE)
    padded = torch.from_numpy(clips.waveforms(short)[:, :SCENE])  # the file's padding is silence
    runs = []
    for path in sorted(folder.rglob(f"best-on-{data.stem}/predictions.npz")):
        with np.load(path) as stored:
            targets, scores = stored["targets"], stored["scores"].copy()
            assert [name.decode() for name in stored["clips"]] == clips.audio_names()
        run = path.parents[1]
        scores[short] = rescored(load_scorer(run / CHECKPOINT), padded)
        experiment, seed = str(run.parent.relative_to(folder)), int(run.name.removeprefix("seed="))
        runs.append(Run(experiment, seed, metrics(targets, scores), resampled_mean=resampled(targets, scores)))
    comparison = Comparison(folder, runs, against)
    differences = {one.first: one for one in comparison.differences()}
    print("| experiment | macro mAP | micro mAP | difference | over clips | over seeds |", "| --- " * 6 + "|", sep="\n")
    for name in comparison.experiments:
        cells = [mean_and_deviation(metric, comparison.values(name, metric)) for metric in ("mAP", "micro_mAP")]
        if one := differences.get(name):
            cells.append(f"{100 * one.mean:+.2f} from {one.second}, seeds {' '.join(map(str, one.seeds))}")
            bounds = (one.clip_interval, one.seed_interval)
            cells += [f"{100 * pair[0]:+.2f} to {100 * pair[1]:+.2f}" if pair else "" for pair in bounds]
        print(f"| {name} |", " | ".join(cells + [""] * (5 - len(cells))), "|")


def rescored(scorer: Scorer, waveforms: torch.Tensor) -> NDArray[np.float32]:
    return np.concatenate([scorer.score(batch) for batch in waveforms.split(BATCH)])


def metrics(targets: NDArray[np.bool_], scores: NDArray[np.float32]) -> dict[str, float]:
    return {
        "mAP": mean_average_precision(targets, scores),
        "micro_mAP": micro_average_precision(targets, scores),
    }


def resampled(targets: NDArray[np.bool_], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """(resamples,) macro mAP, of the same draws for every run."""
    present = classes_with_positives(targets)
    return np.asarray(np.nanmean(bootstrap_average_precision(targets[:, present], scores[:, present]), axis=1))


main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
