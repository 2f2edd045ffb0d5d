"""The 527 classes of AudioSet in their standard order: index, MID, display name.

The table in `data/audioset_labels.csv` is `class_labels_indices.csv` of the AudioSet authors (Gemmeke et al., "Audio
Set: an ontology and human-labeled dataset for audio events", ICASSP 2017), data under CC BY 4.0.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).parent / "data" / "audioset_labels.csv"


@dataclass(frozen=True, slots=True)
class Label:
    """One class: its place in the score vector, its machine id ("/m/09x0r") and its display name ("Speech")."""

    index: int
    mid: str
    display_name: str


@cache
def labels() -> tuple[Label, ...]:
    """The 527 classes, `labels()[i].index == i`.

    >>> labels()[0]
    Label(index=0, mid='/m/09x0r', display_name='Speech')
    """
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(Label(int(row["index"]), row["mid"], row["display_name"]) for row in csv.DictReader(file))
