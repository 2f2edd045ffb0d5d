"""The lists of open sounds: packages, repositories, recordings, their labels and a teacher's scores.

They lie in `data/` of a checkout; its README.md tells where they come from. The wheel has none.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
SPLITS = ("train", "validation", "test")
SCORES = {
    "repositories": "repository_scores.npz",
    "unlabelled": "unlabelled_scores.npz",
}  # of parts with a file of their own


class OpenSoundsError(ValueError):
    """The corpus cannot be made here; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """A Debian package: what apt knows of it, its split ("synthetic" for soundfonts), and if it is in the core."""

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    split: str
    core: bool


@dataclass(frozen=True)
class Repository:
    """A public git repository (`owner/name`), the commit its sounds are taken from, its split and licence."""

    name: str
    commit: str
    split: str
    licence: str


@dataclass(frozen=True)
class Recording:
    """A clip to be: `path` inside its package or repository, `start` to `end` in seconds.

    Attributes:
        path: `OUTER!INNER` for a member of a container.
        labels: AudioSet display names; none if the recording is unlabelled.
        teacher: float16 (527,) scores.
        sha256: of the source file, "" if the list has none.
        member, member_sha256: of the recording in the tars of the second corpus, "" in the other lists.
    """

    origin: str
    path: str
    start: float
    end: float
    group: str
    labels: tuple[str, ...]
    teacher: np.ndarray
    sha256: str = ""
    member: str = ""
    member_sha256: str = ""

    @property
    def name(self) -> str:
        return f"{self.origin}/{self.path}" + (f"@{self.start:g}" if self.start else "")


def list_file(data: Path, name: str) -> Path:
    """`data / name`. Raises OpenSoundsError if it is not there."""
    path = data / name
    if not path.exists():
        raise OpenSoundsError(
            f"{path}: no such list; the lists of open sounds are not in the wheel, run dcls-prepare in a checkout"
        )
    return path


def rows(data: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of `name`, a .csv, or a .tsv with tabs."""
    with list_file(data, name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if name.endswith(".tsv") else ",")


def teacher_scores(data: Path, part: str) -> np.ndarray:
    """float16 (rows, 527) scores of a part, in the order of its list. Some are stored as round(255 * sqrt(score))."""
    name = SCORES.get(part, "teacher_scores.npz")
    with np.load(list_file(data, name), allow_pickle=False) as arrays:
        stored: np.ndarray = arrays[part]
    return ((stored / 255.0) ** 2).astype(np.float16) if stored.dtype == np.uint8 else stored.astype(np.float16)


def load_packages(data: Path = DATA) -> tuple[Package, ...]:
    """The packages, the small ones first, split by split."""
    packages = [
        Package(
            row["package"],
            row["version"],
            row["architecture"],
            int(row["bytes"]),
            row["sha256"],
            row["split"],
            row["core"] == "1",
        )
        for row in rows(data, "packages.tsv")
    ]
    return tuple(sorted(packages, key=lambda package: (package.split, package.size)))


def load_repositories(data: Path = DATA) -> tuple[Repository, ...]:
    """The repositories of the second corpus, in the order of their names."""
    return tuple(
        Repository(row["repository"], row["commit"], row["split"], row["licence"])
        for row in rows(data, "repositories.tsv")
    )


def load_recordings(data: Path = DATA) -> tuple[Recording, ...]:
    """The labelled recordings in packages."""
    return tuple(
        Recording(
            row["package"],
            row["path"],
            float(row["start"]),
            float(row["end"]),
            row["group"],
            tuple(row["labels"].split(";")),
            scores,
        )
        for row, scores in zip(rows(data, "recordings.csv"), teacher_scores(data, "recordings"), strict=True)
    )


def load_unlabelled(data: Path = DATA) -> tuple[Recording, ...]:
    """The unlabelled recordings in train packages; the group of each is its package."""
    return tuple(
        Recording(row["package"], row["path"], float(row["start"]), float(row["end"]), row["package"], (), scores)
        for row, scores in zip(rows(data, "unlabelled.csv"), teacher_scores(data, "unlabelled"), strict=True)
    )


def load_repository_recordings(data: Path = DATA) -> tuple[Recording, ...]:
    """The recordings in repositories. Labels that the teacher did not confirm are left out: unlabelled recordings."""
    return tuple(
        Recording(
            row["repository"],
            row["path"],
            float(row["start"]),
            float(row["end"]),
            row["repository"],
            tuple(row["labels"].split(";")) if row["confirmed"] == "1" else (),
            scores,
            row["sha256"],
            row["member"],
            row["member_sha256"],
        )
        for row, scores in zip(
            rows(data, "repository_recordings.csv"), teacher_scores(data, "repositories"), strict=True
        )
    )


def digest(data: Path, names: Iterable[str], *also: str) -> str:
    """SHA-256 of list files and of strings beside them: tells a corpus from one that other lists made."""
    found = hashlib.sha256()
    for name in names:
        found.update(list_file(data, name).read_bytes())
    for text in also:
        found.update(f"{text}\n".encode())
    return found.hexdigest()
