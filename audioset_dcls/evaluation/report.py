"""The report of one evaluation: a summary in the terminal, JSON, CSV per class; `report_page` makes its HTML page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audioset_dcls.evaluation.metrics import d_prime
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


@dataclass(frozen=True)
class Report:
    """An evaluation with what it was of.

    Attributes:
        about: facts to store beside the numbers and to show, e.g. model, data, command.
        train_counts: of each of the C classes the number of training clips, if it is known.
        sounds: MP3 files of clips by index, to play in the page.
    """

    summary: Summary
    about: dict[str, Any]
    train_counts: Sequence[int] | None = None
    sounds: Mapping[int, bytes] = field(default_factory=dict)


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
    for row_index, index in enumerate(summary.classes.tolist()):
        area = float(summary.area_under_roc[row_index])
        row = {
            "class": summary.predictions.labels[index],
            "positives": int(summary.positives[row_index]),
            "train_clips": None if report.train_counts is None else int(report.train_counts[index]),
            "AP": float(summary.average_precision[FULL][row_index]),
            "AP_low": float(summary.intervals[row_index, 0]),
            "AP_high": float(summary.intervals[row_index, 1]),
            "AUC": None if math.isnan(area) else area,
            "d_prime": None if math.isnan(area) else d_prime(area),
        }
        for length, precision in summary.average_precision.items():
            if length != FULL:
                row[f"AP {length}"] = float(precision[row_index])
        rows.append({**row, "clips": summary.counted["clips"], "clip_hash": summary.counted["clip_hash"]})
    return rows


def print_summary(report: Report, console: Console) -> None:
    """The metrics at each length, the best and the worst classes, and the names of those left out: 80 columns."""
    from rich.table import Table

    summary = report.summary
    counted, intervals = summary.counted, intervals_shown(summary)
    title = f"{report.about['model']} on {report.about['data']}"
    console.print(printable(title), style="bold", highlight=False, markup=False, soft_wrap=True)
    table = Table()
    table.add_column("metric", no_wrap=True)
    table.add_column(FULL, justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    cut = [length for length in summary.overall if length != FULL]
    for length in cut:
        table.add_column(length, justify="right", no_wrap=True)
    for name in METRICS:
        values = {length: shown(name, numbers.get(name)) for length, numbers in summary.overall.items()}
        table.add_row(NAMES[name], values[FULL], intervals.get(name, ""), *(values[length] for length in cut))
    console.print(table)
    console.print(
        f"{counted['clips']:,} clips (hash {counted['clip_hash'][:8]}), {counted['classes']} classes; intervals: "
        f"bootstrap over {summary.resampled_units}",
        highlight=False,
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


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
