"""Choose the train, validation and test repositories of the second corpus.

    python scripts/open_sounds/split_repositories.py CORPUS

CORPUS holds manifest.csv and sources.tsv of the corpus. Prints `repository<TAB>split`. Greedy: the next test repository
is the one that serves most classes still short of two test repositories (of the classes that four or more repositories
have, only rows that the teacher confirmed), less LOSS times what its classes would lose below half of their rows, per
piece ** POWER given away; then single repositories are exchanged while that helps. Then validation, one repository a
class.
"""

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

LEFT_OUT = {"GoogleChromeLabs/web-audio-samples"}  # collections of that kind are kept for tests elsewhere
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.07
LOSS, POWER, SOURCES = 1.5, 0.7, 4


class Corpus:
    """Rows of each label in each repository, confirmed ones alone, and pieces of each repository."""

    def __init__(self, rows: Iterable[dict[str, str]]) -> None:
        self.pieces: Counter[str] = Counter()
        self.rows: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows:
            self.pieces[row["repo"]] += 1
            if row["confirmed"] == "1":
                self.rows[row["repo"]].update(row["labels"].split(";"))
        self.total: Counter[str] = sum(self.rows.values(), Counter())
        self.sources = Counter(label for labels in self.rows.values() for label in labels)
        self.classes = {label for label, count in self.sources.items() if count >= SOURCES}


class Choice:
    """Which repositories a part takes: what the choice costs, and a search for a cheap one."""

    def __init__(self, corpus: Corpus, taken: set[str], wanted: int, share: float) -> None:
        labels = sorted(corpus.total)
        self.repos = sorted(set(corpus.pieces) - taken)
        self.rows = np.array([[corpus.rows[repo][label] for label in labels] for repo in self.repos], float)
        self.pieces = np.array([corpus.pieces[repo] for repo in self.repos])
        self.gone = np.array([sum(corpus.rows[repo][label] for repo in taken) for label in labels], float)
        self.half = np.array([corpus.total[label] / 2 for label in labels])
        self.wanted = np.array([wanted if label in corpus.classes else 0 for label in labels])
        self.most = share * sum(corpus.pieces.values())

    def cost(self, chosen: np.ndarray) -> float:
        """Repositories that classes still lack, and LOSS a class of which all is given away beyond half of its rows."""
        rows = self.rows[chosen]
        lacking = np.maximum(self.wanted - (rows > 0).sum(0), 0).sum()
        before = np.maximum(self.gone / self.half - 1, 0)
        lost = np.maximum((self.gone + rows.sum(0)) / self.half - 1, 0) - before
        return float(lacking + LOSS * lost.sum())

    def fits(self, chosen: np.ndarray) -> bool:
        return bool(self.pieces[chosen].sum() <= self.most)

    def greedy(self) -> np.ndarray:
        """Mask of repositories: the next one lowers the cost most per piece ** POWER."""
        chosen = np.zeros(len(self.repos), bool)
        while True:
            now, best, best_gain = self.cost(chosen), -1, 0.0
            for repo in np.flatnonzero(~chosen):
                chosen[repo] = True
                gain = (now - self.cost(chosen)) / self.pieces[repo] ** POWER
                if self.fits(chosen) and gain > best_gain:
                    best, best_gain = repo, gain
                chosen[repo] = False
            if best < 0:
                return chosen
            chosen[best] = True

    def improve(self, chosen: np.ndarray) -> np.ndarray:
        """Exchange one chosen repository (or none) for another (or none) while that lowers the cost."""
        while True:
            best, best_cost = None, self.cost(chosen) - 1e-9
            for out in (-1, *np.flatnonzero(chosen)):
                for into in (-1, *np.flatnonzero(~chosen)):
                    trial = chosen.copy()
                    if out >= 0:
                        trial[out] = False
                    if into >= 0:
                        trial[into] = True
                    if self.fits(trial) and (cost := self.cost(trial)) < best_cost:
                        best, best_cost = trial, cost
            if best is None:
                return chosen
            chosen = best

    def choose(self) -> set[str]:
        return {self.repos[repo] for repo in np.flatnonzero(self.improve(self.greedy()))}


def split(rows: Iterable[dict[str, str]]) -> dict[str, str]:
    """Repository -> train, validation or test."""
    corpus = Corpus(row for row in rows if row["repo"] not in LEFT_OUT)
    test = Choice(corpus, set(), 2, TEST_SHARE).choose()
    validation = Choice(corpus, test, 1, VALIDATION_SHARE).choose()
    parts = dict.fromkeys(corpus.pieces, "train")
    return parts | dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")


def report(rows: list[dict[str, str]], parts: dict[str, str]) -> None:
    corpus = Corpus(row for row in rows if row["repo"] in parts)
    of_part = {part: [repo for repo in parts if parts[repo] == part] for part in ("train", "validation", "test")}
    for part, repos in of_part.items():
        pieces = sum(corpus.pieces[repo] for repo in repos)
        clips = sum(row["confirmed"] == "1" and parts.get(row["repo"]) == part for row in rows)
        share = pieces / sum(corpus.pieces.values())
        print(f"{part}: {len(repos)} repositories, {pieces} pieces ({share:.1%}), {clips} confirmed", file=sys.stderr)
    served = Counter(label for repo in of_part["test"] for label in corpus.rows[repo])
    missing = sorted(label for label in corpus.classes if served[label] < 2)
    print(f"{len(corpus.classes)} classes of {SOURCES} sources; without two in test: {missing}", file=sys.stderr)


def main(folder: Path) -> None:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    parts = split(rows)
    for repo in sorted(parts):
        print(repo, parts[repo], sep="\t")
    report(rows, parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
