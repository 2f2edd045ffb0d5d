"""Draws interpolations.png: what one element and 26 elements become by each of the three interpolations.

python docs/pictures/interpolations.py
"""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from audioset_dcls.dcls import construct_kernel
from audioset_dcls.dcls.kernel import INTERPOLATIONS

generator = torch.Generator().manual_seed(0)
one = torch.tensor([1.25, -2.6]).view(2, 1, 1, 1)  # cells from the centre: 1.25 up in frequency, 2.6 back in time
many = 4 * torch.randn((2, 1, 1, 26), generator=generator)
weights = torch.randn((1, 1, 26), generator=generator)

figure = Figure((7.5, 5.4), layout="constrained")
for column, interpolation in enumerate(INTERPOLATIONS):
    for row, (weight, positions, size) in enumerate([(torch.ones(1, 1, 1), one, 11), (weights, many, 23)]):
        deviations = None if interpolation == "bilinear" else torch.full_like(positions, 0.73)
        kernel = construct_kernel(weight, positions, deviations, (size, size), interpolation)[0, 0]
        axes = figure.add_subplot(2, 3, 3 * row + column + 1)
        half = size / 2
        largest = float(kernel.abs().max())
        axes.imshow(
            kernel, origin="lower", cmap="RdBu_r", vmin=-largest, vmax=largest, extent=(-half, half, -half, half)
        )
        axes.plot(positions[1].flatten(), positions[0].flatten(), "k.", markersize=2)
        axes.set_title(f"{interpolation}, largest {largest:.2f}" if row == 0 else "26 elements", fontsize=9)
        axes.tick_params(labelsize=7)
figure.supxlabel("time (cells from the centre)", fontsize=8)
figure.supylabel("frequency (cells from the centre)", fontsize=8)
figure.savefig(Path(__file__).with_name("interpolations.png"), dpi=110)
