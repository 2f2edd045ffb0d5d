"""The report of one evaluation: a summary in the terminal, JSON, CSV per class, one self-contained HTML page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audioset_dcls.evaluation.metrics import d_prime, precision_recall_curve
from audioset_dcls.evaluation.predictions import FULL
from audioset_dcls.evaluation.summary import METRICS, SPECIFIC, TOP_COUNTS, Summary
from preprocessing.files import atomic_write
from preprocessing.terminal import csv_cell, printable

if TYPE_CHECKING:
    from rich.console import Console

NAMES = {
    "mAP": "mAP (%)",
    **{name: f"specific top {count} (%)" for name, count in zip(SPECIFIC, TOP_COUNTS, strict=True)},
    "micro_mAP": "micro mAP (%)",
    "AUC": "AUC",
    "d_prime": "d'",
    "lwlrap": "lwlrap (%)",
}
PERCENT = ("mAP", *SPECIFIC, "micro_mAP", "lwlrap", "AP")
CURVE_POINTS = 80  # of each class in the page: as fine as its screen, and 527 classes stay under 1 MB
MISTAKES = 40  # of each kind
MISTAKES_PER_CLASS = 4  # so that one class with doubtful labels does not fill the table
_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Report:
    """An evaluation with what it was of.

    about: facts to store beside the numbers and to show, e.g. model, data, command. train_counts: of each of the C
    classes the number of training clips, where it is known.
    """

    summary: Summary
    about: dict[str, Any]
    train_counts: Sequence[int] | None = None

    def write(self, folder: Path) -> None:
        """Write metrics.json, classes.csv, report.html and predictions.npz, each whole or not at all, JSON last."""
        folder.mkdir(parents=True, exist_ok=True)
        predictions = self.summary.predictions
        arrays: dict[str, Any] = {
            "clips": np.array([name.encode() for name in predictions.clips]),
            "targets": predictions.targets,
            "scores": predictions.scores[FULL],
        }
        arrays |= {f"resampled_{metric}": samples for metric, samples in self.summary.resampled.items()}
        if predictions.sources is not None:
            arrays["sources"] = np.array([source.encode() for source in predictions.sources])
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_file(folder / "predictions.npz", content.getvalue())
        write_file(folder / "classes.csv", csv_text(class_rows(self)))
        write_file(folder / "report.html", html(self))
        write_file(folder / "metrics.json", json.dumps(as_json(self), indent=1, ensure_ascii=False) + "\n")


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file that a reader, or a kill, never sees half of."""
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """A table with the first row's keys as header. Empty cells for None; see `csv_cell`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, rows[0]))
    writer.writerows(map(csv_cell, row.values()) for row in rows)
    return text.getvalue()


def as_json(report: Report) -> dict[str, Any]:
    """All numbers as plain types; an infinite d' is None, which JSON can hold."""
    summary = report.summary
    overall = {
        length: {**{name: _finite(value) for name, value in numbers.items()}, **summary.counted}
        for length, numbers in summary.overall.items()
    }
    overall[FULL] |= {f"{name}_interval": list(bounds) for name, bounds in summary.overall_intervals.items()}
    return {
        **report.about,
        **summary.counted,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "target_hash": summary.predictions.target_hash,
        "interval": f"95 %, bootstrap over {summary.resampled_units}, {summary.resampled['mAP'].size} resamples",
        "classes_without_positives": summary.left_out,
        "classes_without_negatives": summary.without_negatives,
        "metrics": overall,
        "per_class": {
            row["class"]: {
                name: _finite(value) for name, value in row.items() if name not in ("class", "clips", "clip_hash")
            }
            for row in class_rows(report)
        },
    }


def class_rows(report: Report) -> list[dict[str, Any]]:
    """A row for each evaluated class, in the order of the labels; the classes left out have none."""
    summary = report.summary
    rows = []
    for place, index in enumerate(summary.classes.tolist()):
        area = float(summary.area_under_roc[place])
        row = {
            "class": summary.predictions.labels[index],
            "positives": int(summary.positives[place]),
            "train_clips": None if report.train_counts is None else int(report.train_counts[index]),
            "AP": float(summary.average_precision[FULL][place]),
            "AP_low": float(summary.intervals[place, 0]),
            "AP_high": float(summary.intervals[place, 1]),
            "AUC": None if math.isnan(area) else area,
            "d_prime": None if math.isnan(area) else d_prime(area),
        }
        for length, precision in summary.average_precision.items():
            if length != FULL:
                row[f"AP {length}"] = float(precision[place])
        rows.append({**row, "clips": summary.counted["clips"], "clip_hash": summary.counted["clip_hash"]})
    return rows


def print_summary(report: Report, console: Console) -> None:
    """The metrics at each length, the best and the worst classes, and the names of those left out."""
    from rich.table import Table
    from rich.text import Text

    summary = report.summary
    counted = summary.counted
    heading = Text(printable(f"{report.about['model']} on {report.about['data']}"))
    table = Table(title=heading, title_justify="left", title_style="bold")
    table.add_column("length")
    for name in METRICS:
        table.add_column(NAMES[name], justify="right")
    for name in ("clips", "clip hash", "classes"):
        table.add_column(name, justify="right")
    for length, numbers in summary.overall.items():
        cells = [shown(name, numbers.get(name)) for name in METRICS]
        table.add_row(length, *cells, f"{counted['clips']:,}", counted["clip_hash"][:8], str(counted["classes"]))
    console.print(table)
    bounds = "; ".join(f"{unitless(name)} {text}" for name, text in intervals_shown(summary).items())
    console.print(
        f"95 % intervals of whole clips (bootstrap over {summary.resampled_units}): {bounds}", highlight=False
    )
    rows = sorted(class_rows(report), key=lambda row: row["AP"], reverse=True)
    for title, some in (("best", rows[:5]), ("worst", rows[:-6:-1])):
        named = " · ".join(f"{row['class']} {shown('AP', row['AP'])}" for row in some)
        console.print(printable(f"{title} AP (%): {named}"), highlight=False, markup=False)
    for sentence, names in left_out(summary):
        more = f" and {len(names) - 20} more (metrics.json has all)" if len(names) > 20 else ""
        console.print(printable(f"{sentence}: {' · '.join(names[:20])}{more}"), highlight=False, markup=False)


def intervals_shown(summary: Summary) -> dict[str, str]:
    """By metric, "41.20 to 45.90"."""
    return {
        name: " to ".join(shown(name, bound) for bound in bounds) for name, bounds in summary.overall_intervals.items()
    }


def left_out(summary: Summary) -> list[tuple[str, list[str]]]:
    """Which classes have no part in the numbers, and why: sentences with the names."""
    without = (
        ("positives", "left out of every number", summary.left_out),
        ("negatives", "without AUC", summary.without_negatives),
    )
    return [
        (f"{len(names)} class{'es' if len(names) > 1 else ''} without {lack}, {consequence}", names)
        for lack, consequence, names in without
        if names
    ]


def shown(metric: str, value: float | None) -> str:
    """A number as people read it: AP, lwlrap and top hits in percent, the others as they are."""
    if value is None or math.isnan(value):
        return "n/a"
    if metric in PERCENT or metric.startswith("AP "):
        return f"{100 * value:.2f}"
    return "∞" if math.isinf(value) else f"{value:.4f}" if metric == "AUC" else f"{value:.3f}"


def unitless(metric: str) -> str:
    """The metric's name without its unit."""
    return NAMES[metric].removesuffix(" (%)")


# ---- the page


def html(report: Report) -> str:
    """The page: one file that needs no other and no network. Tables are plain HTML, charts are drawn by its script."""
    summary = report.summary
    counted = summary.counted
    counts = (f"{counted['clips']:,}", counted["clip_hash"][:8], str(counted["classes"]))
    intervals = intervals_shown(summary)
    parts = {
        "title": escape(f"{Path(str(report.about['model'])).name} on {Path(str(report.about['data'])).name}"),
        "subtitle": f"{counted['clips']:,} clips (hash <code>{counted['clip_hash'][:16]}</code>), "
        f"{counted['classes']} classes, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "tiles": "".join(
            f"<div class='tile'><b>{shown(name, summary.overall[FULL].get(name))}</b><span>{NAMES[name]}</span>"
            + (f"<small>95 % interval {intervals[name]}</small>" if name in intervals else "")
            + "</div>"
            for name in METRICS
        ),
        "lengths": _table(
            ["Length", *NAMES.values(), "Clips", "Clip hash", "Classes"],
            [
                [length, *(shown(name, numbers.get(name)) for name in METRICS), *counts]
                for length, numbers in summary.overall.items()
            ],
        ),
        "resampled": summary.resampled_units,
        "left_out": "".join(
            f"<p><b>{sentence}</b>: {' · '.join(map(escape, names))}</p>" for sentence, names in left_out(summary)
        ),
        "classes": _class_table(class_rows(report)),
        "false_alarms": _mistake_table(summary, *most_confident(summary, positives=False)),
        "misses": _mistake_table(summary, *most_confident(summary, positives=True)),
        "about": "".join(
            f"<dt>{escape(str(name))}</dt><dd>{escape(_plain(value))}</dd>" for name, value in report.about.items()
        ),
        # "<" may not appear inside <script>: a class named "</script>" would end it
        "data": json.dumps(_chart_data(report), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    head, *pieces = page.split("{{")
    filled = [head]
    for piece in pieces:  # in one pass, so that nothing in the data can be taken for a place
        name, rest = piece.split("}}", 1)
        filled += [parts[name], rest]
    return "".join(filled)


def most_confident(summary: Summary, positives: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Clips and classes of the lowest-scored positives, or else the highest-scored negatives, the worst first."""
    predictions, classes = summary.predictions, summary.classes
    wrong = predictions.targets[:, classes] == positives
    badness = np.where(wrong, predictions.scores[FULL][:, classes] * (-1 if positives else 1), -np.inf)
    # the worst few of each class hold the worst few of all under the limit per class
    kept = min(MISTAKES_PER_CLASS, len(badness))
    clips = np.argpartition(-badness, kept - 1, axis=0)[:kept] if kept < len(badness) else np.argsort(-badness, axis=0)
    places = np.broadcast_to(np.arange(classes.size), clips.shape)
    candidates = badness[clips, places]
    order = np.argsort(-candidates, axis=None, kind="stable")[:MISTAKES]
    order = order[np.isfinite(candidates.ravel()[order])]
    return clips.ravel()[order], classes[places.ravel()[order]]


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


def _class_table(rows: Sequence[dict[str, Any]]) -> str:
    lengths = [name for name in rows[0] if name.startswith("AP ")]
    counts = ["positives"] if rows[0]["train_clips"] is None else ["positives", "train_clips"]
    heads = {"positives": "Clips", "train_clips": "Training clips", "AUC": "AUC", "d_prime": "d'"}
    header = [
        "Class",
        *(heads[name] for name in counts),
        "AP (%)",
        "95 % interval",
        *(f"{name} (%)" for name in lengths),
    ]
    body = []
    for place, row in enumerate(rows):
        numbers = "".join(f"<td data-v='{row[name]}'>{row[name]:,}</td>" for name in counts)
        bar = f"<i style='width:{100 * row['AP']:.1f}%'></i>"
        interval = f"{shown('AP', row['AP_low'])} to {shown('AP', row['AP_high'])}"
        width = row["AP_high"] - row["AP_low"]
        rest = "".join(
            f"<td data-v='{-1 if row[name] is None else min(row[name], 99)}'>{shown(name, row[name])}</td>"
            for name in (*lengths, "AUC", "d_prime")
        )
        body.append(
            f"<tr data-class='{place}' tabindex='0'><td>{escape(row['class'])}</td>{numbers}"
            f"<td class='bar' data-v='{row['AP']}'>{bar}<span>{shown('AP', row['AP'])}</span></td>"
            f"<td data-v='{width}'>{interval}</td>{rest}</tr>"
        )
    titles = "".join(f"<th><button>{title}</button></th>" for title in (*header, "AUC", "d'"))
    return (
        f"<table id='classes' class='sortable'><thead><tr>{titles}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )


def _mistake_table(summary: Summary, clips: NDArray[np.intp], classes: NDArray[np.intp]) -> str:
    if not clips.size:
        return "<p>None.</p>"
    labels, scores = summary.predictions.labels, summary.predictions.scores[FULL]
    rows = []
    for clip, index in zip(clips.tolist(), classes.tolist(), strict=True):
        truth = np.flatnonzero(summary.predictions.targets[clip])
        truth = truth[np.argsort(-scores[clip, truth])]
        top = np.argsort(-scores[clip])[:3]
        rows.append(
            [
                labels[index],
                f"{scores[clip, index]:.3f}",
                " · ".join(f"{labels[label]} {scores[clip, label]:.2f}" for label in truth.tolist()) or "none",
                " · ".join(f"{labels[label]} {scores[clip, label]:.2f}" for label in top.tolist()),
                summary.predictions.clips[clip],
            ]
        )
    return _table(["Class", "Score", "Labels of the clip", "Highest scores", "Clip"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
