"""Step 4 of the lists: matches out, duplicates and caps, scores -> preprocessing/corpora/open_sounds/data/.

    python scripts/open_sounds/build_lists.py CORPUS WORK

Writes repositories.tsv, repository_recordings.csv, unlabelled.csv and their scores, takes what matches out of
recordings.csv (WORK/excluded_train_names.txt: those of train), and prints what fell out and why.
"""

import csv
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pieces import Piece, package_pieces, repository_pieces

from preprocessing.audio import SAMPLE_RATE
from preprocessing.corpora.open_sounds.lists import DATA
from preprocessing.labels import labels as audioset_labels

File = tuple[str, str, str]  # corpus, source, path

# README.md tells how these were chosen
SAME_WAVE, SAME_COURSE, SAME_SPECTRUM = 0.5, 0.975, 0.95
TWIN_COURSE, TWIN_SPECTRUM = 0.96, 0.985
PIECES_OF_PACKAGE = 250
MOST = {"Music": 0.15, "Speech": 0.25}  # share of the unlabelled pieces that the teacher scores above 0.5


def encode(scores: np.ndarray) -> np.ndarray:
    """Scores in [0, 1] -> uint8: a quarter of float16's size, off by 0.004 at most and by less near 0."""
    return np.round(255 * np.sqrt(scores.astype(np.float64))).astype(np.uint8)


def matching_pieces(work: Path) -> dict[str, set[tuple[str, str]]]:
    """Pieces to leave out: split -> {(corpus, name)}. Of a pair the test recording stays, then the validation one."""
    out: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for file in sorted(work.glob("matches*.tsv")):
        for line in file.read_text().splitlines():
            _, course, spectrum, wave, held, _, _, part, corpus, name = line.split("\t")
            same = float(wave) > SAME_WAVE or (float(course) > SAME_COURSE and float(spectrum) > SAME_SPECTRUM)
            if same and (part in ("train", "") or (part == "validation" and held == "test")):
                out[part].add((corpus, name))
    return out


def matching_files(work: Path, pieces: Iterable[Piece]) -> set[File]:
    """The files of these pieces: their other pieces go, too."""
    gone = matching_pieces(work)
    return {key(piece) for piece in pieces if (piece.corpus, piece.name) in gone[piece.part]}


def key(piece: Piece) -> File:
    return piece.corpus, piece.source, piece.path


# repositories -------------------------------------------------------------------------------------------------------


def write_repositories(corpus: Path, work: Path, pieces: list[Piece], gone: set[File]) -> None:
    kept = [piece for piece in pieces if piece.part and key(piece) not in gone]
    kept.sort(key=lambda piece: (piece.source, piece.row))
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    digests = (work / "repositories_sha256.txt").read_text().split()
    columns = "repository path start end labels kind confirmed member member_sha256 sha256"
    taken = ["repo", "path", "start", "end", "labels", "kind", "confirmed", "member"]
    sources = source_digests(work)
    table = [
        [
            *(rows[piece.row][name] for name in taken),
            digests[piece.row],
            sources.get((piece.source, piece.path), ""),
        ]
        for piece in kept
    ]
    write_table(DATA / "repository_recordings.csv", columns.split(), table)
    scores = np.load(corpus / "teacher_scores.npz")["real"][[piece.row for piece in kept]]
    np.savez_compressed(DATA / "repository_scores.npz", repositories=encode(scores))
    with (corpus / "sources.tsv").open(encoding="utf-8", newline="") as file:
        about = {row["repo"]: row for row in csv.DictReader(file, delimiter="\t")}
    table = [
        [repo, about[repo]["commit"], part, about[repo]["licence"], about[repo]["evidence"]]
        for repo, part in sorted({(piece.source, piece.part) for piece in kept})
    ]
    write_table(DATA / "repositories.tsv", ["repository", "commit", "split", "licence", "evidence"], table)
    fell = Counter(piece.part for piece in pieces if piece.part and key(piece) in gone)
    print(
        "repositories:",
        Counter(piece.part for piece in kept),
        "match",
        fell,
        "in no part",
        sum(not p.part for p in pieces),
    )


def source_digests(work: Path) -> dict[tuple[str, str], str]:
    """(repository, path) -> SHA-256, of what `hash_sources.py` found."""
    file = work / "source_sha256.tsv"
    lines = (line.split("\t") for line in file.read_text().splitlines()) if file.exists() else ()
    return {(repository, path): digest for repository, path, digest in lines}


def write_table(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_packages(pieces: list[Piece], gone: set[File]) -> None:
    """Take the train and validation recordings that match out of recordings.csv and its scores."""
    files = {key(piece) for piece in pieces if piece.part in ("train", "validation")} & gone
    with (DATA / "recordings.csv").open(encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    stay = [("recordings", row[0], row[1]) not in files for row in rows]
    write_table(DATA / "recordings.csv", columns, [row for row, stays in zip(rows, stay, strict=True) if stays])
    with np.load(DATA / "teacher_scores.npz") as arrays:
        scores = dict(arrays)
    np.savez_compressed(DATA / "teacher_scores.npz", **scores | {"recordings": scores["recordings"][stay]})
    print("recordings of packages:", sum(stay), "match", len(stay) - sum(stay))


# unlabelled ---------------------------------------------------------------------------------------------------------


@dataclass
class Twins:
    """Finds a piece that repeats one that was seen: the same bytes, or a like map at a like length."""

    prints: dict[str, tuple[float, np.ndarray, np.ndarray]]

    def __post_init__(self) -> None:
        self.bytes: set[bytes] = set()
        self.cells: dict[int, list[str]] = defaultdict(list)

    def name(self, piece: Piece) -> str:
        return f"{piece.corpus}\t{piece.name}"

    def add(self, piece: Piece) -> None:
        self.bytes.add(hashlib.sha256(piece.waveform.tobytes()).digest())
        self.cells[self._cell(piece)].append(self.name(piece))

    def _cell(self, piece: Piece) -> int:
        return int(25 * np.log(max(self.prints[self.name(piece)][0], 0.01)))  # 4 % wide

    def __contains__(self, piece: Piece) -> bool:
        if hashlib.sha256(piece.waveform.tobytes()).digest() in self.bytes:
            return True
        cell = self._cell(piece)
        near = [self.prints[name] for at in (cell - 1, cell, cell + 1) for name in self.cells[at]]
        if not near:
            return False
        _, whole, spectrum = self.prints[self.name(piece)]
        like = (np.stack([one[1] for one in near]) @ whole > TWIN_COURSE) & (
            np.stack([one[2] for one in near]) @ spectrum > TWIN_SPECTRUM
        )
        return bool(like.any())


def load_prints(work: Path) -> dict[str, tuple[float, np.ndarray, np.ndarray]]:
    found = {}
    for file in sorted(work.glob("prints*.npz")):
        with np.load(file) as arrays:
            columns = [arrays[name] for name in ("names", "seconds", "wholes", "spectra")]
        for name, seconds, whole, spectrum in zip(*columns, strict=True):
            found[str(name)] = float(seconds), whole.astype(np.float32), spectrum.astype(np.float32)
    return found


def write_unlabelled(work: Path, packages: list[Piece], repositories: list[Piece], gone: set[File]) -> None:
    twins, why, counts = Twins(load_prints(work)), Counter(), Counter()
    for piece in repositories + packages:
        if piece.corpus != "candidates":
            twins.add(piece)
    kept: list[tuple[Piece, np.ndarray]] = []
    for piece, scores in with_scores(work, packages):
        if key(piece) in gone:
            why["match"] += 1
        elif counts[piece.source] >= PIECES_OF_PACKAGE:
            why["over the cap of a package"] += 1
        elif piece in twins:
            why["duplicate"] += 1
        else:
            twins.add(piece)
            counts[piece.source] += 1
            kept.append((piece, scores))
    for label, share in MOST.items():
        before = len(kept)
        kept = cap(kept, label, share)
        why[f"over the cap of {label}"] = before - len(kept)
    table = [[piece.source, piece.path, f"{piece.start:.3f}", f"{piece.end:.3f}"] for piece, _ in kept]
    write_table(DATA / "unlabelled.csv", ["package", "path", "start", "end"], table)
    np.savez_compressed(DATA / "unlabelled_scores.npz", unlabelled=encode(np.stack([scores for _, scores in kept])))
    hours = sum(len(piece.waveform) for piece, _ in kept) / SAMPLE_RATE / 3600
    print("unlabelled:", len(kept), f"{hours:.2f} h of", len(counts), "packages; left out:", dict(why))


def with_scores(work: Path, packages: list[Piece]) -> Iterable[tuple[Piece, np.ndarray]]:
    candidates = [piece for piece in packages if piece.corpus == "candidates"]
    of_package: dict[str, list[Piece]] = defaultdict(list)
    for piece in candidates:
        of_package[piece.source].append(piece)
    for name, pieces in of_package.items():
        yield from zip(pieces, np.load(work / "unlabelled_scores" / f"{name}.npy"), strict=True)


def cap(kept: list[tuple[Piece, np.ndarray]], label: str, share: float) -> list[tuple[Piece, np.ndarray]]:
    """The same with at most `share` of them scored above 0.5 for the label; evenly spread ones go."""
    index = next(one.index for one in audioset_labels() if one.display_name == label)
    has = np.flatnonzero([scores[index] > 0.5 for _, scores in kept])
    most = int(share / (1 - share) * (len(kept) - len(has)))
    if len(has) <= most:
        return kept
    stay = set(has[np.linspace(0, len(has) - 1, most).astype(int)].tolist())
    return [pair for row, pair in enumerate(kept) if pair[1][index] <= 0.5 or row in stay]


def main(corpus: Path, work: Path) -> None:
    repositories, packages = list(repository_pieces(corpus, work)), list(package_pieces(work))
    gone = matching_files(work, repositories + packages)
    write_repositories(corpus, work, repositories, gone)
    excluded = [p.name for p in packages if p.corpus == "recordings" and p.part == "train" and key(p) in gone]
    (work / "excluded_train_names.txt").write_text("".join(f"{name}\n" for name in excluded))
    write_packages(packages, gone)
    write_unlabelled(work, packages, repositories, gone)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
