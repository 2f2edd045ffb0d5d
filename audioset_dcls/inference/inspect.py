"""What a trained tagger learned: its large kernels, positions, effective receptive field (thesis 2.10, 2.12, 6.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audioset_dcls.dcls import DclsNd
from audioset_dcls.models import AudioTagger, load_checkpoint
from preprocessing.audio import SAMPLE_RATE, read_audio
from preprocessing.constants import LogMelSettings
from preprocessing.files import atomic_write
from preprocessing.log_mel import HOP, N_MELS, LogMel, pad_or_trim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANNELS_SHOWN = 16
SECONDS = 10.0
SPECTRUM_SIZE = 64  # frequencies along each axis of a kernel's spectrum, more for larger kernels
_MOST_COLUMNS = 5  # of panels side by side


def inspect(
    checkpoint: str,
    output: Path,
    recordings: Sequence[Path] = (),
    earlier: Sequence[str] = (),
) -> list[Path]:
    """Write kernels.png, spectra.png, receptive_field.png and, with DCLS, positions.png into `output`; returns paths.

    Args:
        recordings: the receptive field is the mean over these, or over 16 clips of white noise if there are none.
        earlier: checkpoints from before in the same training; positions_over_training.png shows all.

    Raises OSError, CheckpointError and AudioError for what cannot be read.
    """
    model = load_checkpoint(checkpoint)
    figures = {"kernels": plot_kernels(model), "spectra": plot_spectra(model)}
    if any(isinstance(layer, DclsNd) for _, layer in large_depthwise(model)):
        figures["positions"] = plot_positions(model)
    figures["receptive_field"] = plot_receptive_field(
        receptive_field(model, log_mels(recordings, model.log_mel_settings))
    )
    if earlier:
        before = {Path(source).name: load_checkpoint(source) for source in earlier}
        figures["positions_over_training"] = plot_positions_over_training({**before, Path(checkpoint).name: model})
    return [save_figure(figure, output / f"{name}.png") for name, figure in figures.items()]


def save_figure(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    return path


def large_depthwise(model: AudioTagger) -> list[tuple[str, nn.Module]]:
    """Names and layers of the DCLS and the plain depthwise convolutions with kernels of 7 x 7 or more.

    Smaller kernels if the model has no others, as EfficientAT's.
    """
    found: list[tuple[str, nn.Module, tuple[int, ...]]] = []
    for name, layer in model.trunk.named_modules():
        if isinstance(layer, DclsNd):
            found.append((name, layer, layer.dilated_kernel_size))
        elif isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels:
            found.append((name, layer, layer.kernel_size))
    large = [(name, layer) for name, layer, size in found if isinstance(layer, DclsNd) or min(size) >= 7]
    return large or [(name, layer) for name, layer, _ in found]


@torch.no_grad()
def plot_kernels(model: AudioTagger) -> Figure:
    """The dense kernels of the first channels, a row for each large layer, time to the right, frequency upwards."""
    layers = large_depthwise(model)
    if not layers:
        raise ValueError("the model has no depthwise convolution")
    figure = new_figure(CHANNELS_SHOWN * 0.75 + 1, len(layers) * 0.9 + 0.4)
    for axes, (name, layer) in zip(figure.subplots(len(layers), 1, squeeze=False)[:, 0], layers, strict=True):
        kernels = dense_kernels(layer)
        shown = kernels[:CHANNELS_SHOWN].cpu().numpy()
        scaled = shown / np.maximum(np.abs(shown).max((1, 2), keepdims=True), 1e-12)  # each by its own largest
        gaps = np.pad(scaled, ((0, 0), (0, 0), (0, 2)), constant_values=np.nan)
        axes.imshow(np.concatenate(gaps, axis=1), cmap="RdBu_r", vmin=-1, vmax=1, origin="lower")
        axes.set_title(f"{name}, {kernels.shape[-2]} x {kernels.shape[-1]}", fontsize=6, loc="left")
        axes.axis("off")
    return figure


def dense_kernels(layer: nn.Module) -> Tensor:
    """The layer's (channels, height, width)."""
    kernels: Tensor = layer.dense_kernel() if isinstance(layer, DclsNd) else layer.weight  # type: ignore[assignment]
    return kernels[:, 0]


@torch.no_grad()
def plot_spectra(model: AudioTagger) -> Figure:
    """The mean spectrum of each large layer's kernels, in decibels of that of white kernels; zero in the middle."""
    layers = large_depthwise(model)
    columns = min(len(layers), 6)
    rows = -(-len(layers) // columns)
    figure = new_figure(2.1 * columns + 0.8, 2.3 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(layers) :]:
        axes.axis("off")
    for axes, (name, layer) in zip(grid.flat, layers, strict=False):
        power = mean_spectrum(dense_kernels(layer).cpu())
        decibels = 10 * np.log10(np.maximum(power, 1e-6))
        half = (-0.5, 0.5)
        image = axes.imshow(decibels, cmap="RdBu_r", vmin=-10, vmax=10, origin="lower", extent=(*half, *half))
        axes.set_title(f"{name}\n{low_share(power):.0%} in the lower half", fontsize=7)
        axes.tick_params(labelsize=6)
    figure.supxlabel("cycles per cell along time", fontsize=8)
    figure.supylabel("along frequency", fontsize=8)
    figure.colorbar(image, ax=grid, shrink=0.7, label="dB of white kernels")
    return figure


def mean_spectrum(kernels: Tensor) -> NDArray[np.float64]:
    """(channels, height, width) -> (64, 64): mean power of the kernels at frequencies from -1/2 to 1/2 cycle per cell.

    Each kernel counts with the same energy: the mean over all frequencies is 1; a kernel of one cell is 1 everywhere.
    """
    kernels = kernels.double()
    size = max(SPECTRUM_SIZE, *kernels.shape[1:])
    energy = kernels.square().sum((1, 2), keepdim=True)
    power = torch.fft.fft2(kernels, s=(size, size)).abs().square() / energy.clamp(min=1e-12)
    return torch.fft.fftshift(power.mean(0)).numpy()


def low_share(power: NDArray[np.float64]) -> float:
    """The share of a spectrum below a quarter of a cycle per cell along both axes; of a white one a quarter."""
    quarter, rest = power.shape[0] // 4, power.shape[0] - power.shape[0] // 4
    return float(power[quarter:rest, quarter:rest].sum() / power.sum())


@torch.no_grad()
def plot_positions(model: AudioTagger) -> Figure:
    """Where the elements of each set of positions sit: a histogram over the kernel's cells."""
    sets = position_sets(model)
    columns = min(len(sets), _MOST_COLUMNS)
    rows = math.ceil(len(sets) / columns)
    figure = new_figure(3.2 * columns, 3.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(sets) :]:
        axes.set_axis_off()
    for axes, (name, layer) in zip(panels, sets.items(), strict=False):
        counts, extent = share_of_elements(layer)
        image = axes.imshow(counts, origin="lower", extent=extent, cmap="magma")
        figure.colorbar(image, ax=axes, shrink=0.7, label="% of the elements")
        axes.set_title(name, fontsize=8)
        axes.set(xlabel="time (cells)", ylabel="frequency (cells)")
    return figure


@torch.no_grad()
def plot_positions_over_training(checkpoints: Mapping[str, AudioTagger]) -> Figure:
    """Small multiples: a row for each set of positions, a column for each checkpoint, each row on one scale.

    Args:
        checkpoints: title -> model, in the order of training.

    Raises ValueError for models without DCLS layers, or with other ones than the first.
    """
    sets = {title: position_sets(model) for title, model in checkpoints.items()}
    names = list(next(iter(sets.values())))
    for title, found in sets.items():
        if not names or list(found) != names:
            raise ValueError(f"{title}: its DCLS layers are not those of the first checkpoint, or there are none")
    figure = new_figure(2.2 * len(sets) + 0.8, 2.3 * len(names))
    grid = figure.subplots(len(names), len(sets), squeeze=False, sharex=True, sharey=True)
    for row, name in zip(grid, names, strict=True):
        shares = [share_of_elements(found[name]) for found in sets.values()]
        highest = max(float(counts.max()) for counts, _ in shares)
        for axes, (counts, extent), title in zip(row, shares, sets, strict=True):
            image = axes.imshow(counts, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=highest)
            axes.set_title(f"{title}\n{name}", fontsize=7)
        figure.colorbar(image, ax=row, shrink=0.7, label="% of the elements")
    return figure


def position_sets(model: AudioTagger) -> dict[str, DclsNd]:
    """The first layer of each set of positions, by name: layers that share positions make one picture."""
    sets: dict[int, tuple[str, DclsNd]] = {}
    for name, layer in large_depthwise(model):
        if isinstance(layer, DclsNd):
            sets.setdefault(id(layer.positions), (name, layer))
    return dict(sets.values())


def share_of_elements(layer: DclsNd) -> tuple[NDArray[np.float64], tuple[float, float, float, float]]:
    """The percentage of a layer's elements in each cell of its kernel, and the kernel's extent for `imshow`."""
    high, wide = layer.dilated_kernel_size
    pitch, time = layer.positions.flatten(1).cpu().numpy()
    edges = [np.arange(size + 1) - size // 2 - 0.5 for size in (high, wide)]
    counts = 100 * np.histogram2d(pitch, time, bins=edges)[0] / len(time)
    return counts, (edges[1][0], edges[1][-1], edges[0][0], edges[0][-1])


def receptive_field(model: AudioTagger, log_mel: Tensor) -> NDArray[np.float64]:
    """How much each cell of the input moves the middle of the last map: (128, frames), the largest 1.

    Mean over the clips of the gradient's absolute value, as in Luo et al. 2016 and the thesis' section 6.3.
    """
    total = torch.zeros(log_mel.shape[-2:], dtype=torch.float64)
    for clip in log_mel.split(1):
        clip = clip.clone().requires_grad_()
        features = model.forward_features(clip)
        features[..., features.shape[-2] // 2, features.shape[-1] // 2].sum().backward(inputs=[clip])
        assert clip.grad is not None
        total += clip.grad[0, 0].abs().double()
    return (total / total.max()).numpy()


def smallest_share(field: NDArray[np.float64], part: float = 0.5) -> float:
    """The smallest share of the cells that together hold `part` of the field's sum."""
    ordered = np.sort(field, axis=None)[::-1].cumsum()
    return (int(np.searchsorted(ordered, part * ordered[-1])) + 1) / field.size


def plot_receptive_field(field: NDArray[np.float64]) -> Figure:
    figure = new_figure(9, 3)
    axes = figure.subplots()
    extent = (0, field.shape[1] * HOP / SAMPLE_RATE, 0, N_MELS)
    decibels = 10 * np.log10(np.maximum(field, 1e-6))
    image = axes.imshow(decibels, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-40)
    figure.colorbar(image, ax=axes, label="dB of the largest")
    shares = ", ".join(f"{part:.0%} of it in {smallest_share(field, part):.1%} of the input" for part in (0.5, 0.9))
    axes.set(title=f"effective receptive field: {shares}", xlabel="time (s)", ylabel="mel band")
    return figure


def log_mels(recordings: Sequence[Path], settings: LogMelSettings) -> Tensor:
    """(N, 1, 128, 1001): ten seconds of each recording, or of noise."""
    samples = round(SECONDS * SAMPLE_RATE)
    if recordings:
        waveform = torch.from_numpy(np.stack([pad_or_trim(read_audio(path), samples) for path in recordings]))
    else:
        waveform = 0.1 * torch.randn(16, samples, generator=torch.Generator().manual_seed(0))
    return LogMel(settings)(waveform)


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")
