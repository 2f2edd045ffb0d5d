"""Writes what runs would be without weight averaging, as runs of their own: the weights that their last step left.

Averaging does not touch the training: to train again without gives the same weights.

python docs/results/without_average.py runs/study convnext convnext_dcls
"""

import sys
from pathlib import Path

import torch

from audioset_dcls.evaluation.runs import CHECKPOINT, find_runs


def main(folder: Path, *experiments: str) -> None:
    for run in (run for experiment in experiments for run in find_runs(folder / experiment)):
        trained = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
        target = folder / f"{run.parent.name}_no_average" / run.name / CHECKPOINT
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"audioset_dcls": trained["audioset_dcls"], "state_dict": trained["current_model_state"]}, target)


main(Path(sys.argv[1]), *sys.argv[2:])
