"""A picture of a tagged recording: waveform, log-mel spectrogram, and which tag sounds when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from audioset_dcls.tagging.results import Decode, Result
from audioset_dcls.tagging.session import OnnxModel
from preprocessing.audio import MIX, iter_audio
from preprocessing.constants import N_MELS, LogMelSettings
from preprocessing.files import atomic_write
from preprocessing.terminal import figure_text

_COLUMNS = 1500  # of waveform and spectrogram, however long the recording is
_BLOCK = 10.0  # s
_TAGS = 10


def plot(
    path: Path,
    model: OnnxModel,
    source: str | IO[bytes],
    result: Result,
    threshold: float,
    channel: str | int = MIX,
    decode: Decode = iter_audio,
) -> None:
    """Write a PNG of the channel that was tagged.

    Reads the source once more, block by block, and shows the log-mel as the network sees it.

    Raises ValueError for a result without a timeline, AudioError where the source cannot be read again.
    """
    if result.timeline is None:
        raise ValueError("a plot needs the timeline: tag with timeline=True")
    from matplotlib.figure import Figure  # the figure alone: pyplot would look for a display

    blocks = decode(source, _BLOCK, model.sample_rate, channel, lambda note: None)
    low, high, log_mel = _overview(model, blocks, result.duration)
    shown = tags_to_show(result.timeline, threshold)
    end = result.duration
    figure = Figure(figsize=(11, 5.2 + 0.26 * len(shown)), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[1.2, 2.4, 0.4 + 0.3 * len(shown)])
    times = np.linspace(0, end, len(low))
    axes[0].fill_between(times, low, high, color="0.25", linewidth=0.4)
    limit = max(float(np.abs([low, high]).max()), 1e-3) * 1.05
    axes[0].set(ylabel="amplitude", ylim=(-limit, limit), title=figure_text(Path(result.source).name))
    axes[1].imshow(
        log_mel, origin="lower", aspect="auto", extent=(0, end, 0, N_MELS), cmap="magma", interpolation="nearest"
    )
    settings = model.log_mel_settings
    hertz = [h for h in (100, 300, 1000, 3000, 10000) if settings.f_min <= h <= settings.f_max]
    ticks = [_band(h, settings) for h in hertz]
    axes[1].set(ylabel="frequency (Hz)", yticks=ticks, yticklabels=[f"{h:,}" for h in hertz])
    # a window's score is drawn over its own span, halved where the next one begins within it
    edges = np.append(result.starts, end)
    if len(result.starts) > 1:
        middles = result.starts + min(result.window, end) / 2
        edges = np.concatenate([[0], (middles[1:] + middles[:-1]) / 2, [end]])
    mesh = axes[2].pcolormesh(
        edges, np.arange(len(shown) + 1), result.timeline[:, shown].T, cmap="Greens", vmin=0, vmax=1, shading="flat"
    )
    names = [f"{figure_text(result.labels[i])}  {result.scores[i]:.2f}" for i in shown]
    axes[2].set(yticks=np.arange(len(shown)) + 0.5, yticklabels=names, xlabel="time (s)", xlim=(0, end))
    axes[2].invert_yaxis()
    figure.colorbar(mesh, ax=axes[2], label="score", pad=0.01)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)


def tags_to_show(timeline: np.ndarray, threshold: float, count: int = _TAGS) -> list[int]:
    """The classes that tell most about a timeline (windows, C): each window's best, then each window's second, ...

    At most `count` of those that reach the threshold, in the order of their first appearance; where none does, the
    best one. The `count` highest scores would all be of one loud bird and its superclasses.
    """
    ranked = np.argsort(-timeline, axis=1, kind="stable")
    highest = timeline.max(axis=0)
    chosen: list[int] = []
    for rank in range(min(count, timeline.shape[1])):
        of_rank = np.unique(ranked[timeline.max(axis=1) >= threshold, rank])
        new = [int(i) for i in of_rank[np.argsort(-highest[of_rank], kind="stable")] if i not in chosen]
        chosen += [i for i in new if highest[i] >= threshold][: count - len(chosen)]
    return sorted(chosen, key=lambda i: int(timeline[:, i].argmax())) or [int(highest.argmax())]


def _overview(
    model: OnnxModel, blocks: Iterator[np.ndarray], duration: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest sample, (columns,) each, and the mean log-mel in dB plus a constant, (128, columns).

    In constant memory.
    """
    samples = max(round(duration * model.sample_rate), 1)
    columns = min(_COLUMNS, samples, max(round(duration * 100), 1))  # at most one column a frame
    low, high = np.zeros(columns), np.zeros(columns)
    total, count = np.zeros((N_MELS, columns)), np.zeros(columns)
    begin = 0
    for block in blocks:
        places = np.minimum((np.arange(begin, begin + len(block)) * columns) // samples, columns - 1)
        first = np.unique(places, return_index=True)
        low[first[0]] = np.minimum(low[first[0]], np.minimum.reduceat(block, first[1]))
        high[first[0]] = np.maximum(high[first[0]], np.maximum.reduceat(block, first[1]))
        (log_mel,) = model.run(block[None], ["log_mel"])
        frames = log_mel[0, 0, :, : len(block) * 100 // model.sample_rate + 1]
        at = begin + np.arange(frames.shape[1]) * model.sample_rate // 100
        places = np.minimum(at * columns // samples, columns - 1)
        np.add.at(total.T, places, frames.T)
        np.add.at(count, places, 1)
        begin += len(block)
    known = np.flatnonzero(count)
    nearest = known[np.clip(np.searchsorted(known, np.arange(columns)), 0, len(known) - 1)]
    return low, high, (total[:, nearest] / count[nearest]) / model.log_mel_settings.decibel


def _band(hertz: float, settings: LogMelSettings) -> float:
    """The place of a frequency among the HTK mel bands, 0 to 128."""
    low, high, mel = (2595 * np.log10(1 + h / 700) for h in (settings.f_min, settings.f_max, hertz))
    return float((mel - low) / (high - low) * N_MELS)
