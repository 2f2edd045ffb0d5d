"""The decoded pieces that steps 1 left in WORK, with what the lists say about each."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing.corpora.open_sounds.lists import load_packages


@dataclass
class Piece:
    """int16 (samples,) at 32 kHz. part: the split, "" for what no list has; row: in the manifest or the package."""

    corpus: str  # repositories, recordings, candidates
    source: str  # repository or package
    path: str
    start: float
    end: float
    part: str
    row: int
    waveform: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.source}/{self.path}" + (f"@{self.start:g}" if self.start else "")


def repository_pieces(corpus: Path, work: Path) -> Iterator[Piece]:
    """All rows of the manifest, in its order."""
    split = dict(line.split("\t") for line in (work / "split.tsv").read_text().splitlines())
    stored, lengths = np.load(work / "repositories.npy", mmap_mode="r"), np.load(work / "repositories_samples.npy")
    ends = np.cumsum(lengths)
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        for index, row in enumerate(csv.DictReader(file)):
            part = split.get(row["repo"], "")
            if part in ("validation", "test") and row["confirmed"] != "1":
                part = ""  # in no part, but never in training
            waveform = np.asarray(stored[ends[index] - lengths[index] : ends[index]])
            start, end = float(row["start"]), float(row["end"])
            yield Piece("repositories", row["repo"], row["path"], start, end, part, index, waveform)


def package_pieces(work: Path) -> Iterator[Piece]:
    """The listed recordings of all packages and the candidates of the unlabelled part, package by package."""
    for package in sorted(load_packages(), key=lambda package: package.name):
        notes = work / "debian" / f"{package.name}.json"
        if not notes.exists():
            continue
        stored, end = np.load(notes.with_suffix(".npy"), mmap_mode="r"), 0
        for row, note in enumerate(json.loads(notes.read_text())):
            end += note["samples"]
            waveform = np.asarray(stored[end - note["samples"] : end])
            kind = "recordings" if note["listed"] else "candidates"
            yield Piece(kind, package.name, note["path"], note["start"], note["end"], package.split, row, waveform)
