"""Prints how much of its energy a trained depthwise kernel has in its middle 3 x 3 cells and in its largest cell.

In percent, means over a layer's channels, the least and the greatest of the layers; likewise the kernels' norms. DCLS
kernels are taken as the dense ones that they make. Seed 0.

python studies/open_sounds/scripts/kernel_shares.py runs/study convnext convnext_dcls
"""

import sys
from pathlib import Path

from torch import Tensor

from audioset_dcls.evaluation.runs import CHECKPOINT
from audioset_dcls.inference.inspect import dense_kernels
from audioset_dcls.models import load_checkpoint


def main(folder: Path, *experiments: str) -> None:
    print("| experiment | middle 3 x 3 | largest cell | norm |\n| --- | --- | --- | --- |")
    for experiment in experiments:
        model = load_checkpoint(folder / experiment / "seed_0" / CHECKPOINT)
        layers = [shares(dense_kernels(layer)) for name, layer in model.named_modules() if name.endswith("conv_dw")]
        middle, largest, norm = ((min(values), max(values)) for values in zip(*layers, strict=True))
        print(f"| {experiment} | {span(middle)} | {span(largest)} | {norm[0]:.2f} to {norm[1]:.2f} |")


def shares(kernels: Tensor) -> tuple[float, float, float]:
    """Means over (channels, height, width): the middle's share of the energy, the largest cell's, the norm."""
    energy = kernels.square()
    total, centre = energy.sum((1, 2)), energy.shape[-1] // 2
    middle = energy[:, centre - 1 : centre + 2, centre - 1 : centre + 2].sum((1, 2))
    return (middle / total).mean().item(), (energy.amax((1, 2)) / total).mean().item(), total.sqrt().mean().item()


def span(share: tuple[float, float]) -> str:
    return f"{100 * share[0]:.0f} to {100 * share[1]:.0f}"


main(Path(sys.argv[1]), *sys.argv[2:])
