"""Writes what runs would be without weight averaging, as runs of their own: the weights that their last step left.

Averaging does not touch the training: to train again without gives the same weights.

python studies/open_sounds/scripts/without_average.py runs/study convnext convnext_dcls
"""

import sys
from pathlib import Path

import torch

from audioset_dcls.evaluation.runs import CHECKPOINT, find_runs
from audioset_dcls.models import load_checkpoint, save_checkpoint


def main(folder: Path, *experiments: str) -> None:
    for run in (run for experiment in experiments for run in find_runs(folder / experiment)):
        model = load_checkpoint(run / CHECKPOINT)
        last = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)["current_model_state"]
        weights = {name.removeprefix("model."): last[name] for name in last if name.startswith("model.")}
        model.load_state_dict(weights)
        save_checkpoint(folder / f"{run.parent.name}_no_average" / run.name / CHECKPOINT, model)


main(Path(sys.argv[1]), *sys.argv[2:])
