"""Learned delays in a small spiking network: python examples/spiking_delays.py [--plot delays.png]

The task is made on the spot. Each of 16 input neurons spikes once; a class is when they do, relative to each other,
over 25 steps. Each sample is shifted in time, each spike jitters by a step, and some are lost or spurious. A hidden
neuron of short memory tells classes apart only if delays line its spikes up. Three networks of the same size: delays
learned as positions of DCLS (2306.17670), fixed at random ones, and all zero. Prints the accuracy with delays rounded
to whole steps, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audioset_dcls.dcls import Dcls1d, narrow_delays, round_delays, spread_delays, synaptic_delays

INPUTS, HIDDEN, CLASSES = 16, 48, 10
SPREAD, STEPS = 25, 60  # longest delay + 1, length of a sample
MEMORY = 0.5  # of a membrane, from one step to the next
BATCH, BATCHES = 64, 15  # an epoch


class Spike(torch.autograd.Function):
    """1 above the threshold; the gradient is that of an arctangent (surrogate gradient)."""

    @staticmethod
    def forward(ctx, above: Tensor) -> Tensor:
        ctx.save_for_backward(above)
        return (above > 0).to(above)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (above,) = ctx.saved_tensors
        return grad / (1 + (2 * above) ** 2)


def fire(current: Tensor) -> Tensor:
    """Leaky integrate-and-fire neurons, threshold 1, reset by subtraction: (batch, neurons, steps) -> spikes."""
    membrane, spikes = torch.zeros_like(current[..., 0]), []
    for now in current.unbind(-1):
        membrane = MEMORY * membrane + now
        spikes.append(Spike.apply(membrane - 1))
        membrane = membrane - spikes[-1].detach()
    return torch.stack(spikes, -1)


class Network(nn.Module):
    """Delayed synapses, hidden spikes, class scores: the mean of a linear readout over time."""

    def __init__(self) -> None:
        super().__init__()
        self.synapses = Dcls1d(INPUTS, HIDDEN, kernel_count=1, dilated_kernel_size=SPREAD, padding="causal", bias=False)
        self.norm, self.readout = nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, CLASSES)

    def forward(self, spikes: Tensor) -> Tensor:
        return self.readout(fire(self.norm(self.synapses(spikes))).sum(-1))


def samples(patterns: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Spikes (B, INPUTS, STEPS) of the classes whose spike times are `patterns` (CLASSES, INPUTS)."""
    shape = len(targets), INPUTS
    shift = torch.randint(0, STEPS - 2 * SPREAD, (len(targets), 1), generator=generator)
    jitter = torch.randint(-1, 2, shape, generator=generator)
    times = (patterns[targets] + shift + jitter).clamp(0, STEPS - 1)
    kept = (torch.rand(shape, generator=generator) > 0.1).float()
    spurious = (torch.rand(*shape, STEPS, generator=generator) < 0.01).float()
    return spurious.scatter(2, times[..., None], kept[..., None])


def run(kind: str, seed: int, epochs: int) -> tuple[float, Tensor, Tensor]:
    """Accuracy with whole delays, and the delays before and after training, in steps."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    patterns = torch.randint(0, SPREAD, (CLASSES, INPUTS), generator=generator)
    network = Network()
    learned = kind == "learned"
    network.synapses.positions.requires_grad_(learned)
    spread_delays(network)
    if kind == "zero":
        nn.init.constant_(network.synapses.positions, SPREAD // 2)
    before = synaptic_delays(network.synapses).detach().clone()
    placing = [network.synapses.positions] if learned else []
    others = [p for name, p in network.named_parameters() if name not in ("synapses.positions", "synapses.deviations")]
    groups = [{"params": others, "lr": 5e-3}, *({"params": [p], "lr": 0.2} for p in placing)]
    optimizer = torch.optim.Adam(groups)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs):
        # fixed delays are narrow from the start: a wide Gaussian would blur what they tell apart
        narrow_delays(network, epoch / epochs if learned else 1.0)
        for _ in range(BATCHES):
            targets = torch.randint(0, CLASSES, (BATCH,), generator=generator)
            loss = F.cross_entropy(network(samples(patterns, targets, generator)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            network.synapses.clamp_positions()
        scheduler.step()
    after = synaptic_delays(network.synapses).detach().clone()
    round_delays(network.eval())
    targets = torch.randint(0, CLASSES, (2000,), generator=generator)
    with torch.inference_mode():
        scores = network(samples(patterns, targets, generator))
    return float((scores.argmax(1) == targets).float().mean()), before, after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--plot", metavar="PNG", help="draw delays before and after training, and the accuracies")
    arguments = parser.parse_args()
    results = {
        kind: [run(kind, seed, arguments.epochs) for seed in range(arguments.seeds)]
        for kind in ("learned", "random", "zero")
    }
    for kind, runs in results.items():
        scores = 100 * np.array([score for score, _, _ in runs])
        print(f"{kind:8} {scores.mean():.1f} ± {scores.std(ddof=len(scores) > 1):.1f} %")
    if arguments.plot:
        plot(results, arguments.plot)


def plot(results: dict[str, list[tuple[float, Tensor, Tensor]]], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure((8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    for x, (kind, runs) in enumerate(results.items()):
        left.scatter([x] * len(runs), [100 * score for score, _, _ in runs], label=kind)
    left.axhline(100 / CLASSES, color="grey", linestyle=":")
    left.set(
        xticks=range(len(results)), xticklabels=list(results), ylabel="accuracy (%), a dot a seed", xlabel="delays"
    )
    moved = torch.cat([(after - before).flatten() for _, before, after in results["learned"]])
    right.hist(moved.numpy(), bins=49)
    right.set(xlabel="how far a learned delay moved (steps)", ylabel="synapses")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
