"""A picture of a tagged recording: waveform, log-mel spectrogram, and which tag sounds when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from audioset_dcls.tagging.events import implied_classes
from audioset_dcls.tagging.results import Decode, Result
from audioset_dcls.tagging.session import OnnxModel
from audioset_dcls.tagging.writers.formats import clock
from preprocessing.audio import MIX, iter_audio
from preprocessing.constants import N_MELS, LogMelSettings
from preprocessing.files import atomic_write
from preprocessing.labels import ancestor_matrix
from preprocessing.terminal import figure_text

_COLUMNS = 1500  # of waveform and spectrogram, however long the recording is
_BLOCK = 10.0  # s
_TAGS = 10
_CELLS = 200  # of the tags over time: each is 4 pixels wide or more
_TICKS = (5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)  # s


def plot(
    path: Path,
    model: OnnxModel,
    source: str | IO[bytes],
    result: Result,
    all_levels: bool = False,
    channel: str | int = MIX,
    decode: Decode = iter_audio,
) -> None:
    """Write a PNG of the channel that was tagged; with `all_levels` classes that others imply are in it.

    Reads the source once more, block by block, and shows the log-mel as the network sees it.

    Raises ValueError for a result without a timeline, AudioError if the source cannot be read again.
    """
    if result.timeline is None:
        raise ValueError("a plot needs the timeline: tag with timeline=True")
    from matplotlib.figure import Figure  # the figure alone: pyplot would look for a display

    blocks = decode(source, _BLOCK, model.sample_rate, channel, lambda note: None)
    low, high, log_mel = _overview(model, blocks, result.duration)
    timeline = result.timeline if all_levels else _specific(result)
    shown = tags_to_show(timeline, result.thresholds)
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
    edges, cells = _cells(result.starts, timeline[:, shown], min(result.window, end), end)
    mesh = axes[2].pcolormesh(edges, np.arange(len(shown) + 1), cells.T, cmap="Greens", vmin=0, vmax=1, shading="flat")
    names = [f"{figure_text(result.labels[i])}  {timeline[:, i].max():.2f}" for i in shown]
    axes[2].set(yticks=np.arange(len(shown)) + 0.5, yticklabels=names, xlim=(0, end))
    _label_time(axes[2], end)
    axes[2].invert_yaxis()
    figure.colorbar(mesh, ax=axes[2], label="score", pad=0.01)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)


def _specific(result: Result) -> np.ndarray:
    """The timeline with 0 for what a window's other classes imply."""
    assert result.timeline is not None
    above = ancestor_matrix(result.labels)
    implied = np.stack([implied_classes(window >= result.thresholds, above) for window in result.timeline])
    return np.where(implied, 0, result.timeline)


def tags_to_show(timeline: np.ndarray, thresholds: float | np.ndarray, count: int = _TAGS) -> list[int]:
    """The classes that tell most about a timeline (windows, C): each window's best, then each window's second, ...

    At most `count` of those that reach their threshold, in the order of their first appearance; if none does, the
    best one. The `count` highest scores would all be of one loud bird and its superclasses.
    """
    passes = timeline >= thresholds
    scores = np.where(passes, timeline, 0)
    ranked = np.argsort(-scores, axis=1, kind="stable")
    highest = scores.max(axis=0)
    chosen: list[int] = []
    for rank in range(min(count, timeline.shape[1])):
        of_rank = np.unique(ranked[passes.any(axis=1), rank])
        new = [int(i) for i in of_rank[np.argsort(-highest[of_rank], kind="stable")] if i not in chosen]
        chosen += [i for i in new if highest[i] > 0][: count - len(chosen)]
    return sorted(chosen, key=lambda i: int(scores[:, i].argmax())) or [int(timeline.max(axis=0).argmax())]


def _cells(starts: np.ndarray, scores: np.ndarray, window: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges (n + 1,) in seconds and scores (n, K) of the cells to draw for those of windows (windows, K).

    A window is drawn over its own span, halved where the next one begins within it. Of many windows, several share a
    cell, which is wide enough to see and shows their highest score.
    """
    middles = starts + window / 2
    edges = np.concatenate([[0], (middles[1:] + middles[:-1]) / 2, [end]])
    step = -(-len(starts) // _CELLS)
    first = np.arange(0, len(starts), step)
    return np.append(edges[first], end), np.maximum.reduceat(scores, first, axis=0)


def _label_time(axes: Any, end: float) -> None:
    """Seconds, or from a minute on what a clock shows: 2:30, 1:05:00."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    if end < 60:
        axes.set(xlabel="time (s)")
        return
    step = next((step for step in _TICKS if end / step <= 12), end / 12)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(round(seconds), tenths=False)))
    axes.set(xlabel="time (h:min:s)" if end >= 3600 else "time (min:s)")


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
        column = np.minimum((np.arange(begin, begin + len(block)) * columns) // samples, columns - 1)
        first = np.unique(column, return_index=True)
        low[first[0]] = np.minimum(low[first[0]], np.minimum.reduceat(block, first[1]))
        high[first[0]] = np.maximum(high[first[0]], np.maximum.reduceat(block, first[1]))
        (log_mel,) = model.run(block[None], ["log_mel"])
        frames = log_mel[0, 0, :, : len(block) * 100 // model.sample_rate + 1]
        at = begin + np.arange(frames.shape[1]) * model.sample_rate // 100
        column = np.minimum(at * columns // samples, columns - 1)
        np.add.at(total.T, column, frames.T)
        np.add.at(count, column, 1)
        begin += len(block)
    known = np.flatnonzero(count)
    nearest = known[np.clip(np.searchsorted(known, np.arange(columns)), 0, len(known) - 1)]
    return low, high, (total[:, nearest] / count[nearest]) / model.log_mel_settings.decibel


def _band(hertz: float, settings: LogMelSettings) -> float:
    """The place of a frequency among the HTK mel bands, 0 to 128."""
    low, high, mel = (2595 * np.log10(1 + h / 700) for h in (settings.f_min, settings.f_max, hertz))
    return float((mel - low) / (high - low) * N_MELS)
