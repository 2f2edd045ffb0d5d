"""A report as files: numbers for programs, a page for people."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.evaluation.predictions import FULL
from audioset_dcls.evaluation.report import Report, as_json, class_rows, csv_text, write_file
from audioset_dcls.evaluation.report_page import html


def write_report(report: Report, folder: Path) -> None:
    """Write metrics.json, classes.csv, report.html and predictions.npz, each whole or not at all, JSON last."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions = report.summary.predictions
    arrays: dict[str, Any] = {
        "clips": np.array([name.encode() for name in predictions.clips]),
        "targets": predictions.targets,
        "scores": predictions.scores[FULL],
    }
    arrays |= {f"resampled_{metric}": samples for metric, samples in report.summary.resampled.items()}
    if predictions.sources is not None:
        arrays["sources"] = np.array([source.encode() for source in predictions.sources])
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_file(folder / "predictions.npz", content.getvalue())
    write_file(folder / "classes.csv", csv_text(class_rows(report)))
    write_file(folder / "report.html", html(report))
    write_file(folder / "metrics.json", json.dumps(as_json(report), indent=1, ensure_ascii=False) + "\n")
