"""The CSV of classes and their lowest scores that `dcls-tag --thresholds` reads."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from preprocessing.files import atomic_write


def write_thresholds(path: Path, thresholds: Mapping[str, float]) -> None:
    """Class -> score. The file appears whole or not at all; classes stay as they are, since they are read back."""
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "score"])
        writer.writerows([label, f"{score:.4f}"] for label, score in thresholds.items())


def update_threshold(path: Path, label: str, threshold: float, labels: Sequence[str]) -> None:
    """Put one class' threshold into the file, which may hold others. Raises ValueError for a file of something else."""
    from audioset_dcls.tagging.selection import read_thresholds

    others = read_thresholds(path, labels) if path.exists() else {}
    write_thresholds(path, {**others, label: threshold})
