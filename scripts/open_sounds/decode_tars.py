"""Step 1 of the lists, second corpus: decode the members of the tars.

    python scripts/open_sounds/decode_tars.py CORPUS WORK

Writes WORK/repositories.npy (int16, all pieces one after another, 32 kHz), WORK/repositories_samples.npy (int64, their
lengths, row order of the manifest) and WORK/repositories_sha256.txt (of the Opus bytes).
"""

import csv
import hashlib
import sys
import tarfile
from itertools import groupby
from pathlib import Path

import numpy as np

from preprocessing.audio import read_audio
from preprocessing.clips.layout import CLIP_SAMPLES, to_int16


def main(corpus: Path, work: Path) -> None:
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pieces, digests = [], []
    for shard, members in groupby(rows, lambda row: row["shard"]):
        with tarfile.open(corpus / shard) as tar:
            for row in members:
                data = tar.extractfile(row["member"]).read()
                digests.append(hashlib.sha256(data).hexdigest())
                pieces.append(to_int16(read_audio(data)[:CLIP_SAMPLES]))
    np.save(work / "repositories.npy", np.concatenate(pieces))
    np.save(work / "repositories_samples.npy", np.array([len(piece) for piece in pieces]))
    (work / "repositories_sha256.txt").write_text("\n".join(digests) + "\n")
    seconds = np.array([float(row["duration"]) for row in rows])
    print(len(rows), np.abs(np.array([len(piece) for piece in pieces]) / 32_000 - seconds).max())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
