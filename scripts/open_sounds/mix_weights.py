"""Weights between those that a training started from and those it ended with.

  python scripts/open_sounds/mix_weights.py runs/embedded/seed_0/last.ckpt runs/embedded/seed_0/mixed.ckpt

A network that is trained further on few sources hears these better and forgets some of what it knew; on the line
between both lies one that does either (Wortsman et al., arXiv 2109.01903). Batch norms must have been frozen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from audioset_dcls.models import create_model, load_checkpoint, save_checkpoint

SHARE = 0.75  # by the validation parts: studies/open_sounds/embedded.md


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, metavar="TRAINED.ckpt")
    parser.add_argument("mixed", type=Path, metavar="MIXED.ckpt", help="the file to write")
    parser.add_argument(
        "--share", type=float, default=SHARE, metavar="S", help="of the trained weights (default: 0.75)"
    )
    parser.add_argument("--start", metavar="FILE", help="the authors' weights it started from (default: downloaded)")
    arguments = parser.parse_args()
    model = load_checkpoint(arguments.trained)
    config = {**model.config, "pretrained": arguments.start or True}
    start = create_model(config.pop("name"), **config).state_dict()
    mixed = {
        name: torch.lerp(start[name], value, arguments.share) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(mixed)
    kept = {name: value for name, value in model.metadata.items() if name != "val_map"}  # of the trained weights
    save_checkpoint(arguments.mixed, model, model.labels, kept)


if __name__ == "__main__":
    main()
