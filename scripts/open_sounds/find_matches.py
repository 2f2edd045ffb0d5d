"""Step 2 of the lists: pairs of a validation or test recording and a piece of another source that sound alike.

    python scripts/open_sounds/find_matches.py CORPUS WORK [I/N]

Writes WORK/matches.tsv: kind (whole or part), correlation of the maps and of the spectra, largest normalised
cross-correlation of the waveforms, split, corpus and name of the query, then of the other piece. Also WORK/prints.npz:
length, map and spectrum of every piece, for the search for duplicates. With I/N only every N-th piece from the I-th on:
matches_I.tsv and prints_I.npz.
"""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from zlib import crc32

import numpy as np
from matches import Print, Queries, fingerprint
from pieces import Piece, package_pieces, repository_pieces

LEAST = 0.8  # correlation of maps that is written down
HELD = ("validation", "test")
QUERY_STEP = 60  # 3 s between the parts of a query


def waveform_correlation(one: np.ndarray, two: np.ndarray) -> float:
    """The largest cross-correlation of two int16 waveforms at 8 kHz, over the energies where they overlap.

    An overlap of less than 30 % of the largest energy counts as that much.
    """
    one, two = (wave[: len(wave) // 4 * 4].reshape(-1, 4).mean(1).astype(np.float64) for wave in (one, two))
    if len(one) > len(two):
        one, two = two, one
    size = 1 << (len(one) + len(two)).bit_length()
    product = np.fft.irfft(np.conj(np.fft.rfft(one, size)) * np.fft.rfft(two, size), size)
    shifts = np.arange(-len(one) + 1, len(two))
    total = np.concatenate([[0.0], np.cumsum(two**2)])
    under = total[np.clip(shifts + len(one), 0, len(two))] - total[np.clip(shifts, 0, len(two))]
    under = np.maximum(under, 0.3 * under.max())
    return float((product[shifts % size] / np.sqrt((one**2).sum() * under + 1e-9)).max())


def everything(corpus: Path, work: Path) -> Iterator[Piece]:
    return chain(repository_pieces(corpus, work), package_pieces(work))


def main(corpus: Path, work: Path, share: str = "0/1") -> None:
    first, step = map(int, share.split("/"))
    suffix = f"_{first}" if step > 1 else ""
    queries = [piece for piece in everything(corpus, work) if piece.part in HELD and piece.corpus != "candidates"]
    prints = [fingerprint(query.waveform, QUERY_STEP) for query in queries]
    print(len(queries), "queries", sum(len(p.parts) for p in prints if p), "parts", flush=True)
    table = Queries(prints)
    names, found = [], []
    with (work / f"matches{suffix}.tsv.tmp").open("w") as out:
        for number, piece in enumerate(everything(corpus, work)):
            if crc32(piece.name.encode()) % step != first:
                continue
            names.append(f"{piece.corpus}\t{piece.name}")
            found.append(fingerprint(piece.waveform))
            for line in lines(queries, table, piece, found[-1]):
                print(*line, sep="\t", file=out)
            if found[-1]:
                found[-1].parts = found[-1].parts[:0]
            if number % 1000 == 0:
                print(number, flush=True)
    np.savez(
        work / f"prints{suffix}.npz",
        names=np.array(names),
        seconds=np.array([p.seconds if p else 0.0 for p in found]),
        wholes=np.array([p.whole if p else np.zeros(480) for p in found], np.float16),
        spectra=np.array([p.spectrum if p else np.zeros(16) for p in found], np.float16),
    )
    (work / f"matches{suffix}.tsv.tmp").rename(work / f"matches{suffix}.tsv")


def lines(queries: list[Piece], table: Queries, piece: Piece, found: Print | None) -> Iterator[tuple[object, ...]]:
    if found is None:
        return
    pairs = [("whole", *pair) for pair in table.similar_wholes(found, LEAST)]
    pairs += [("part", *pair) for pair in table.similar_parts(found, LEAST)]
    for kind, index, course, spectrum in pairs:
        query = queries[index]
        if (query.corpus, query.source) != (piece.corpus, piece.source):
            wave = waveform_correlation(query.waveform, piece.waveform) if course > 0.85 else 0.0
            numbers = (f"{value:.3f}" for value in (course, spectrum, wave))
            yield kind, *numbers, query.part, query.corpus, query.name, piece.part, piece.corpus, piece.name


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
