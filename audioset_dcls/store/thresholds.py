"""The CSV of classes and their lowest scores that `dcls-tag --thresholds` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audioset_dcls.tagging.selection import read_thresholds, write_thresholds


def update_threshold(path: Path, label: str, threshold: float, labels: Sequence[str]) -> None:
    """Put one class' threshold into the file, which may hold others. Raises ValueError for a file of something else."""
    others = read_thresholds(path, labels) if path.exists() else {}
    write_thresholds(path, {**others, label: threshold})
