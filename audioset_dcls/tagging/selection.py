"""Which classes to tell of, and from which score: files with names of classes, written by people and by programs."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocessing import checks
from preprocessing.files import atomic_write
from preprocessing.labels import descendants
from preprocessing.labels import labels as audioset_labels

GROUP = "/*"  # "Animal/*": a class and all those below it
_NEAR = 0.6  # of difflib's ratio
_WORD = 0.9  # a word within a name counts less than the name


@dataclass(frozen=True)
class Selection:
    """Display names that a file asks for: those that the tagger hears, and those that it cannot hear."""

    labels: tuple[str, ...]
    unheard: tuple[str, ...]


def read_labels(path: Path, known: Sequence[str], masked: Collection[str] = ()) -> Selection:
    """A text file with a class a line: its name in upper or lower case, its MID, or "Animal/*" for all animals.

    "#" begins a comment line. known: what the tagger scores. masked: what of it never scores, for lack of training.
    Raises ValueError, one line, for a name that is no class.
    """
    lines = [line.strip() for line in _text(path, "labels").splitlines()]
    names = _Names(known)
    wanted = [name for line in lines if line and not line.startswith("#") for name in names.find(line, path)]
    if not wanted:
        raise ValueError(f"{path}: holds no labels; write one display name a line")
    heard = tuple(dict.fromkeys(name for name in wanted if name in known and name not in masked))
    unheard = tuple(dict.fromkeys(name for name in wanted if name not in heard))
    if not heard:
        raise ValueError(f"{path}: this tagger can hear none of its classes; --list-labels shows what it can")
    return Selection(heard, unheard)


def read_thresholds(path: Path, known: Sequence[str]) -> dict[str, float]:
    """Display name -> lowest score, from a CSV of class and score, with or without a header.

    Classes are written as for `read_labels`; a later line wins. Raises ValueError, one line that names the file's line.
    """
    names = _Names(known)
    thresholds: dict[str, float] = {}
    rows = csv.reader(io.StringIO(_text(path, "thresholds"), newline=""))
    for number, row in enumerate(rows, 1):
        if not any(cell.strip() for cell in row) or row[0].lstrip().startswith("#"):
            continue
        score = _number(row[1]) if len(row) > 1 else None
        if score is None and number == 1:
            continue  # the header
        if score is None or not 0 < score <= 1:
            raise ValueError(f"{path}: line {number} is no class and score, above 0 and at most 1: Dog,0.35")
        for name in names.find(row[0].strip(), path):
            if name in known:
                thresholds[name] = score
    if not thresholds:
        raise ValueError(f"{path}: holds no thresholds for this tagger; write lines of class and score: Dog,0.35")
    return thresholds


def write_thresholds(path: Path, thresholds: Mapping[str, float]) -> None:
    """What `read_thresholds` reads. The file appears whole or not at all; classes stay as they are."""
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "score"])
        writer.writerows([label, f"{score:.4f}"] for label, score in thresholds.items())


def label_rows(known: Sequence[str], masked: Collection[str]) -> Iterator[tuple[int, str, str, str, str]]:
    """Index, MID, name, parents, and whether the tagger can hear it, "yes" or "no"; an own class has no MID."""
    about = {label.display_name: label for label in audioset_labels()}
    for index, name in enumerate(known):
        label = about.get(name)
        mid, parents = ("", ()) if label is None else (label.mid, label.parents)
        yield index, mid, name, ";".join(parents), "no" if name in masked else "yes"


class _Names:
    """The classes of a tagger and of AudioSet, found by what people write."""

    def __init__(self, known: Sequence[str]) -> None:
        classes = audioset_labels()
        self._audioset = {label.display_name for label in classes}
        self._names = list(dict.fromkeys([*known, *(label.display_name for label in classes)]))
        self._found = {label.mid: label.display_name for label in classes}
        for name in reversed(self._names):
            self._found[_plain(name)] = name
        self._known = known

    def find(self, text: str, path: Path) -> list[str]:
        """The display names that a line of `path` stands for. Raises ValueError."""
        wanted = text.removesuffix(GROUP).strip()
        name = wanted if wanted in self._names else self._found.get(wanted) or self._found.get(_plain(wanted))
        if name is None:
            near = " or ".join(repr(name) for name in near_names(wanted, self._known))
            raise ValueError(f"{path}: the tagger knows no {wanted!r}" + f"; did you mean {near}?" * bool(near))
        if text.endswith(GROUP) and name in self._audioset:
            return [other for other in self._names if other == name or other in descendants(name)]
        return [name]


def near_names(text: str, names: Sequence[str], count: int = 3) -> list[str]:
    """The names, nearest first, that a mistyped or approximate one may stand for: "sirens" finds "Siren".

    >>> near_names("guitars", ["Dog", "Guitar", "Electric guitar"])
    ['Guitar', 'Electric guitar']
    """
    ratios = {name: _likeness(_plain(text), _plain(name)) for name in names}
    best = sorted((name for name in names if ratios[name] >= _NEAR), key=lambda name: -ratios[name])
    return best[:count]


def _likeness(text: str, name: str) -> float:
    parts = [(name, 1.0), *((part.strip(), 1.0) for part in name.split(",")), *((word, _WORD) for word in name.split())]
    matcher = difflib.SequenceMatcher(a="", b=text)
    best = 0.0
    for part, weight in parts:
        matcher.set_seq1(part)
        if weight * matcher.real_quick_ratio() > best:
            best = max(best, weight * matcher.ratio())
    return best


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _text(path: Path, what: str) -> str:
    try:
        return checks.small_text(path).removeprefix("\ufeff")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be read as a list of {what}: {reason}") from error
