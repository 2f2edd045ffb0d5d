"""The 527 classes of AudioSet in their standard order, and their places in AudioSet's ontology.

`data/audioset_ontology.csv` has a row for each class: index, MID and display name as in `class_labels_indices.csv` of
the AudioSet authors (Gemmeke et al., "Audio Set: an ontology and human-labeled dataset for audio events", ICASSP 2017),
and the display names of its parents, separated by ";", which no name contains. The ontology also has abstract nodes
that are no classes, e.g. "Human voice"; they are left out here, so a class without a parent among the 527 is a root.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

_TABLE = Path(__file__).parent / "data" / "audioset_ontology.csv"


@dataclass(frozen=True, slots=True)
class Label:
    """One class: its index in the score vector, machine id ("/m/09x0r"), display name ("Speech") and parents' names."""

    index: int
    mid: str
    display_name: str
    parents: tuple[str, ...] = ()


@cache
def labels() -> tuple[Label, ...]:
    """The 527 classes, `labels()[i].index == i`.

    >>> labels()[1]
    Label(index=1, mid='/m/05zppz', display_name='Male speech, man speaking', parents=('Speech',))
    """
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Label(int(row["index"]), row["mid"], row["display_name"], tuple(filter(None, row["parents"].split(";"))))
            for row in csv.DictReader(file)
        )


@cache
def ancestors(display_name: str) -> frozenset[str]:
    """Display names of the classes above a class: its parents, their parents, and so on. KeyError for an unknown name.

    >>> sorted(ancestors("Meow"))
    ['Animal', 'Cat', 'Domestic animals, pets']
    """
    parents = _parents()[display_name]
    return frozenset(parents).union(*map(ancestors, parents))


@cache
def descendants(display_name: str) -> frozenset[str]:
    """Display names of the classes below a class. KeyError for an unknown name.

    >>> sorted(descendants("Dog"))[:3]
    ['Bark', 'Bow-wow', 'Growling']
    """
    if display_name not in _parents():
        raise KeyError(display_name)
    return frozenset(name for name in _parents() if display_name in ancestors(name))


@cache
def depth(display_name: str) -> int:
    """Steps from a class up to a root, along the longest path; 0 for a root. KeyError for an unknown name.

    >>> depth("Animal"), depth("Meow")
    (0, 3)
    """
    return max((depth(parent) + 1 for parent in _parents()[display_name]), default=0)


@cache
def ancestor_matrix(names: tuple[str, ...]) -> np.ndarray:
    """(C, C) bool for the classes called `names`: [i, j] if class j is above class i.

    A name that is none of AudioSet's has nothing above or below it.

    >>> ancestor_matrix(("Animal", "Meow", "My own class")).astype(int)
    array([[0, 0, 0],
           [1, 0, 0],
           [0, 0, 0]])
    """
    index = {name: i for i, name in enumerate(names)}
    above = np.zeros((len(names), len(names)), bool)
    for name in index.keys() & _parents().keys():
        above[index[name], [index[other] for other in ancestors(name) if other in index]] = True
    above.flags.writeable = False  # it is cached
    return above


@cache
def _parents() -> dict[str, tuple[str, ...]]:
    return {label.display_name: label.parents for label in labels()}
