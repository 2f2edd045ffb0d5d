"""How large should the kernel be, and how do positions move? python studies/positions/positions.py

On the task of examples/images.py, 26 elements in kernels of several sizes, which start as wide as the kernel (at N(0,
size / 6) cells), or as the papers', at N(0, 0.5), with --position-std 0.5. Prints for each size the accuracy, how far
from the centre elements end (root mean square), and the exponent of their motion: if the mean squared distance that
elements moved after a lag of t steps grows as t ** a, then a is 1 for Brownian motion and 2 for motion straight ahead.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # examples/ is in the checkout alone

from audioset_dcls.dcls import dcls_layers
from examples.images import run

LAGS = (1, 2, 4, 8, 16, 32, 64)  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[7, 15, 23])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--position-std", type=float, metavar="CELLS", help="of the start (default: size / 6)")
    parser.add_argument("--plot", metavar="PNG", help="draw the mean squared displacement over the lag")
    arguments = parser.parse_args()
    curves = {}
    print("kernel  accuracy (%)  distance  exponent")
    for size in arguments.sizes:
        scores, ends, displacements = [], [], []
        for seed in range(arguments.seeds):
            path: list[torch.Tensor] = []
            keep = partial(keep_positions, path)
            options = {"dilated_kernel_size": size, "position_std": arguments.position_std or size / 6}
            scores.append(run(seed, arguments.epochs, keep, **options))
            trajectory = torch.stack(path).numpy()
            ends.append(rms(trajectory[-1]))
            displacements.append(mean_squared_displacement(trajectory))
        curves[size] = np.mean(displacements, 0)
        slope = exponent(curves[size])
        print(f"{size:6} {100 * np.mean(scores):13.1f} {np.mean(ends):9.2f} {slope:9.2f}", flush=True)
    if arguments.plot:
        plot(curves, arguments.plot)


def keep_positions(path: list[torch.Tensor], step: int, model: nn.Module) -> None:
    """Append the positions of all sets, (2, elements)."""
    sets = {id(layer.positions): layer.positions.detach().flatten(1) for layer in dcls_layers(model)}
    path.append(torch.cat(list(sets.values()), 1).clone())


def rms(positions: NDArray[np.float32]) -> float:
    """Root of the mean squared distance from the centre, of (2, elements)."""
    return float(np.sqrt(np.square(positions).sum(0).mean()))


def mean_squared_displacement(trajectory: NDArray[np.float32]) -> NDArray[np.float64]:
    """(steps, 2, elements) -> for each lag the squared distance moved, mean over elements and starts.

    Starts lie in the second half: at first all elements move the same way, outwards.
    """
    late = trajectory[len(trajectory) // 2 :].astype(np.float64)
    return np.array([np.square(late[lag:] - late[:-lag]).sum(1).mean() for lag in LAGS])


def exponent(displacement: NDArray[np.float64]) -> float:
    """The slope of log displacement over log lag."""
    return float(np.polyfit(np.log(LAGS), np.log(displacement), 1)[0])


def plot(curves: dict[int, NDArray[np.float64]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure((5, 3.4), layout="constrained")
    axes = figure.subplots()
    for size, curve in curves.items():
        axes.loglog(LAGS, curve, marker="o", label=f"{size} x {size}")
    first = next(iter(curves.values()))[0]
    axes.loglog(LAGS, first * np.array(LAGS), "k:", label="Brownian, slope 1")
    axes.loglog(LAGS, first * np.square(LAGS), "k--", label="straight, slope 2")
    axes.set(xlabel="lag (steps)", ylabel="mean squared distance moved (cells²)")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
