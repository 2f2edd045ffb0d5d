"""Pictures of a comparison: scores by seed, paired differences, training curves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from audioset_dcls.evaluation.compare import Comparison, Difference, sample_std
from preprocessing.terminal import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_experiments(comparison: Comparison) -> Figure:
    """mAP of each experiment: a dot a seed, a bar of mean ± standard deviation; one panel a length."""
    lengths = [name for name in comparison.metrics if re.fullmatch(r"mAP( [\d.]+ s)?", name)]
    names = comparison.experiments
    figure = _figure(3.2 + 3.2 * len(lengths), 1.4 + 0.45 * len(names))
    panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, lengths, strict=True):
        for row, name in enumerate(names):
            values = 100 * np.array(comparison.values(name, metric))
            if not values.size:
                continue
            axes.errorbar(
                values.mean(), row, xerr=sample_std(values.tolist()), fmt="|", color="C0", markersize=16, capsize=4
            )
            axes.plot(values, np.full(values.size, row), "o", color="C1", alpha=0.7, markersize=5)
        axes.set_xlabel("mAP (%)" if metric == "mAP" else f"mAP (%), {metric.split(' ', 1)[1]}")
        axes.grid(axis="x", alpha=0.4)
    panels[0].set_yticks(range(len(names)), list(map(figure_text, names)))
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def plot_differences(differences: Sequence[Difference]) -> Figure:
    """Paired differences in mAP with both intervals."""
    differences = [one for one in differences if one.metric == "mAP"]
    figure = _figure(8.5, 1.6 + 0.5 * len(differences))
    axes = figure.subplots()
    styles = (("seeds (t)", -0.12, "C0"), ("sources (bootstrap)", 0.12, "C1"))
    for label, offset, color in styles:
        for row, one in enumerate(differences):
            bounds = one.seed_interval if label.startswith("seeds") else one.source_interval
            if bounds is not None:
                axes.plot(100 * np.array(bounds), [row + offset] * 2, color=color, lw=2.5, label=label)
            axes.plot(100 * one.mean, row + offset, "o", color=color)
    axes.axvline(0, color="0.4", lw=1)
    axes.set_yticks(range(len(differences)), [figure_text(f"{one.first} - {one.second}") for one in differences])
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.set_xlabel("difference in mAP (percentage points), 95 % intervals")
    axes.grid(axis="x", alpha=0.4)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if handles:
        axes.legend(handles.values(), [f"over {label}" for label in handles], loc="best")
    return figure


def plot_curves(comparison: Comparison) -> Figure:
    """Validation mAP over training: a thin line a seed, a thick one their mean if all have that epoch."""
    figure = _figure(8, 5)
    axes = figure.subplots()
    for row, name in enumerate(comparison.experiments):
        curves = [dict(run.curve) for run in comparison.of(name) if run.curve]
        for curve in curves:
            axes.plot(list(curve), [100 * score for score in curve.values()], color=f"C{row % 10}", alpha=0.35, lw=1)
        epochs = sorted(set.intersection(*map(set, curves))) if curves else []
        means = [100 * float(np.mean([curve[epoch] for curve in curves])) for epoch in epochs]
        axes.plot(epochs, means, color=f"C{row % 10}", lw=2, label=figure_text(name))
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation mAP (%)")
    axes.grid(alpha=0.4)
    axes.legend()
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no display, no global state
    return figure
