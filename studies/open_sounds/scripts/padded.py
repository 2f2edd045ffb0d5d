"""Prints what evaluated runs score with silence behind the short recordings, up to the length of a training scene.

A table of the metrics, and one of the differences in macro mAP from the experiments named, as `dcls-eval --baseline`.

python studies/open_sounds/scripts/padded.py runs/study data/open_sounds/test.h5 convnext convnext_dcls convformer
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from audioset_dcls.evaluation.compare import Comparison, compare, markdown
from audioset_dcls.evaluation.predictions import FULL, Predictions
from audioset_dcls.evaluation.runs import CHECKPOINT, Run, evaluation_folder
from audioset_dcls.evaluation.summary import summarize
from audioset_dcls.inference.predict import load_scorer
from preprocessing.clips.reader import ClipFile
from preprocessing.constants import SAMPLE_RATE

SCENE = round(2.56 * SAMPLE_RATE)  # samples
BATCH = 8  # clips; larger ones are no faster on a core


def main(folder: Path, data: Path, *baselines: str) -> None:
    clips = ClipFile(data)
    assert clips.lengths is not None
    short = np.flatnonzero(clips.lengths < SCENE)
    padded = torch.from_numpy(clips.waveforms(short)[:, :SCENE])  # the file's padding is silence

    def with_silence(run: Run) -> Run:
        checkpoint = folder / run.experiment / f"seed_{run.seed}" / CHECKPOINT
        with np.load(evaluation_folder(checkpoint, data) / "predictions.npz") as stored:
            targets, scores = stored["targets"], stored["scores"].copy()
            assert [name.decode() for name in stored["clips"]] == clips.audio_names()
        scorer = load_scorer(checkpoint)
        scores[short] = np.concatenate([scorer.score(batch) for batch in padded.split(BATCH)])
        summary = summarize(Predictions(clips.audio_names(), clips.labels, targets, {FULL: scores}, clips.sources()))
        return replace(run, metrics=summary.overall[FULL], resampled=summary.resampled)

    evaluated, _ = compare(folder, data.stem, baselines)
    comparison = Comparison(folder, [with_silence(run) for run in evaluated.runs], baselines)
    print(markdown(comparison, comparison.differences(), []))


main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
