"""The page of a report: one HTML file that needs no other file and no network."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from audioset_dcls.evaluation.metrics import precision_recall_curve
from audioset_dcls.evaluation.predictions import FULL
from audioset_dcls.evaluation.report import NAMES, Report, class_rows, intervals_shown, left_out, shown
from audioset_dcls.evaluation.summary import METRICS, Summary

CURVE_POINTS = 80  # of each class: as fine as its screen, and 527 classes stay under 1 MB
MISTAKES = 40  # of each kind
MISTAKES_PER_CLASS = 4  # so that one class with doubtful labels does not fill the table


def html(report: Report) -> str:
    """The page of `report`. Tables are plain HTML; its script draws the charts and plays the sounds."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    summary = report.summary
    intervals = intervals_shown(summary)
    return environment.get_template("report.html.j2").render(
        title=f"{Path(str(report.about['model'])).name} on {Path(str(report.about['data'])).name}",
        counted=summary.counted,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        names=NAMES,
        tiles=[(NAMES[name], shown(name, summary.overall[FULL].get(name)), intervals.get(name)) for name in METRICS],
        lengths={
            length: [shown(name, numbers.get(name)) for name in METRICS] for length, numbers in summary.overall.items()
        },
        resampled=summary.resampled_units,
        left_out=left_out(summary),
        class_columns=_class_columns(report),
        class_rows=[_class_cells(row) for row in class_rows(report)],
        false_alarms=_mistakes(report, positives=False),
        misses=_mistakes(report, positives=True),
        about={str(name): _plain(value) for name, value in report.about.items()},
        charts=_chart_data(report),
        sounds={clip: b64encode(sound).decode() for clip, sound in report.sounds.items()},
    )


def most_confident(summary: Summary, positives: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Clips and classes of the lowest-scored positives, or else the highest-scored negatives, the worst first."""
    predictions, classes = summary.predictions, summary.classes
    wrong = predictions.targets[:, classes] == positives
    badness = np.where(wrong, predictions.scores[FULL][:, classes] * (-1 if positives else 1), -np.inf)
    # the worst few of each class hold the worst few of all under the limit per class
    kept = min(MISTAKES_PER_CLASS, len(badness))
    clips = np.argpartition(-badness, kept - 1, axis=0)[:kept] if kept < len(badness) else np.argsort(-badness, axis=0)
    columns = np.broadcast_to(np.arange(classes.size), clips.shape)
    candidates = badness[clips, columns]
    order = np.argsort(-candidates, axis=None, kind="stable")[:MISTAKES]
    order = order[np.isfinite(candidates.ravel()[order])]
    return clips.ravel()[order], classes[columns.ravel()[order]]


def _class_columns(report: Report) -> list[str]:
    lengths = [f"AP {length} (%)" for length in report.summary.average_precision if length != FULL]
    counts = ["Clips"] if report.train_counts is None else ["Clips", "Training clips"]
    return ["Class", *counts, "AP (%)", "95 % interval", *lengths, "AUC", "d'"]


def _class_cells(row: dict[str, Any]) -> dict[str, Any]:
    """The texts of a row of `class_rows`, each number with the value that it is sorted by."""
    counts = [row["positives"]] if row["train_clips"] is None else [row["positives"], row["train_clips"]]
    rest = [name for name in row if name.startswith("AP ")] + ["AUC", "d_prime"]
    return {
        "name": row["class"],
        "counts": [(count, f"{count:,}") for count in counts],
        "AP": (row["AP"], shown("AP", row["AP"])),
        "interval": (row["AP_high"] - row["AP_low"], f"{shown('AP', row['AP_low'])} to {shown('AP', row['AP_high'])}"),
        # d' may be infinite, which no attribute holds
        "rest": [(-1 if row[name] is None else min(row[name], 99), shown(name, row[name])) for name in rest],
    }


def _mistakes(report: Report, positives: bool) -> list[dict[str, Any]]:
    predictions = report.summary.predictions
    labels, scores = predictions.labels, predictions.scores[FULL]

    def scored(clip: int, classes: NDArray[np.intp]) -> str:
        return " · ".join(f"{labels[index]} {scores[clip, index]:.2f}" for index in classes.tolist())

    rows = []
    for clip, index in zip(*(part.tolist() for part in most_confident(report.summary, positives)), strict=True):
        truth = np.flatnonzero(predictions.targets[clip])
        rows.append(
            {
                "label": labels[index],
                "score": f"{scores[clip, index]:.3f}",
                "truth": scored(clip, truth[np.argsort(-scores[clip, truth])]) or "none",
                "best": scored(clip, np.argsort(-scores[clip])[:3]),
                "clip": predictions.clips[clip],
                "sound": clip if clip in report.sounds else None,
            }
        )
    return rows


def _chart_data(report: Report) -> dict[str, Any]:
    summary = report.summary
    targets, scores = summary.predictions.targets, summary.predictions.scores[FULL]
    rows = class_rows(report)
    return {
        "train": report.train_counts is not None,
        "rankCorrelation": _rank_correlation(rows, "positives" if report.train_counts is None else "train_clips"),
        "classes": [
            {
                "name": row["class"],
                "ap": round(row["AP"], 6),
                "low": round(row["AP_low"], 4),
                "high": round(row["AP_high"], 4),
                "positives": row["positives"],
                "train": row["train_clips"],
                "curve": _thinned(*precision_recall_curve(targets[:, index], scores[:, index])),
            }
            for row, index in zip(rows, summary.classes, strict=True)
        ],
    }


def _thinned(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> list[list[float]]:
    """At most CURVE_POINTS points of the curve, first and last included: [[recall, precision], ...]."""
    chosen = np.unique(np.linspace(0, recall.size - 1, min(recall.size, CURVE_POINTS)).round().astype(int))
    return np.stack([recall[chosen], precision[chosen]], axis=1).round(4).tolist()


def _rank_correlation(rows: Sequence[dict[str, Any]], count: str) -> float | None:
    from scipy.stats import spearmanr

    if len(rows) < 3 or len({row[count] for row in rows}) < 2 or len({row["AP"] for row in rows}) < 2:
        return None
    return float(spearmanr([row[count] for row in rows], [row["AP"] for row in rows]).statistic)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
