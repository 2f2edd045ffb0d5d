"""Scores and targets -> numbers and reports. Knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.lazy import exports

if TYPE_CHECKING:
    from audioset_dcls.evaluation.calibration import Calibration, calibration_error, fit_calibration
    from audioset_dcls.evaluation.metrics import (
        area_under_roc,
        average_precision,
        d_prime,
        lwlrap,
        mean_average_precision,
        micro_average_precision,
        precision_recall_curve,
        specific_ranks,
        specific_top_hits,
    )
    from audioset_dcls.evaluation.predictions import Predictions
    from audioset_dcls.evaluation.report import Report, print_summary
    from audioset_dcls.evaluation.report_files import write_report
    from audioset_dcls.evaluation.summary import Summary, summarize

__all__ = [
    "Calibration",
    "Predictions",
    "Report",
    "Summary",
    "area_under_roc",
    "average_precision",
    "calibration_error",
    "d_prime",
    "fit_calibration",
    "lwlrap",
    "mean_average_precision",
    "micro_average_precision",
    "precision_recall_curve",
    "print_summary",
    "specific_ranks",
    "specific_top_hits",
    "summarize",
    "write_report",
]
__getattr__, __dir__ = exports(
    __name__,
    {
        "audioset_dcls.evaluation.calibration": (
            "Calibration",
            "calibration_error",
            "fit_calibration",
        ),
        "audioset_dcls.evaluation.metrics": (
            "area_under_roc",
            "average_precision",
            "d_prime",
            "lwlrap",
            "mean_average_precision",
            "micro_average_precision",
            "precision_recall_curve",
            "specific_ranks",
            "specific_top_hits",
        ),
        "audioset_dcls.evaluation.predictions": ("Predictions",),
        "audioset_dcls.evaluation.report": (
            "Report",
            "print_summary",
        ),
        "audioset_dcls.evaluation.report_files": ("write_report",),
        "audioset_dcls.evaluation.summary": (
            "Summary",
            "summarize",
        ),
    },
)
