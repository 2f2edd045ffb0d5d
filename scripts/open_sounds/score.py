"""A teacher's scores of pieces: the mean of the piece as it is, looped and zero-padded to 10 s.

python scripts/open_sounds/score.py WORK efficientat_mn04 [I/N]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from pieces import package_pieces

from audioset_dcls.models import load_checkpoint
from preprocessing.log_mel import LogMel

SAMPLES, SECOND = 320_000, 32_000
WHOLE = 9.5 * SECOND  # a piece from this length on is scored once, padded


class Scorer:
    """Scores of waveforms by what `load_checkpoint` takes."""

    def __init__(self, teacher: str) -> None:
        torch.set_num_threads(1)
        self.model = load_checkpoint(teacher)
        self.model.minimum_frames = 1  # short pieces are padded and looped here
        self.log_mel = LogMel(self.model.log_mel_settings)

    def _run(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        batch = torch.from_numpy(np.stack(waveforms).astype(np.float32) / 32_767)
        with torch.inference_mode():
            return self.model(self.log_mel(batch)).sigmoid().numpy()

    def score(self, pieces: Sequence[np.ndarray], batch: int = 8) -> np.ndarray:
        """(N, 527) float32 of int16 pieces of 10 s at most."""
        scores = np.zeros((len(pieces), 527), np.float32)
        for first in range(0, len(pieces), batch):
            some = pieces[first : first + batch]
            found = self._run([np.pad(piece, (0, SAMPLES - len(piece))) for piece in some])
            short = [row for row, piece in enumerate(some) if len(piece) < WHOLE]
            if short:
                looped = self._run([np.resize(some[row], SAMPLES) for row in short])
                for row, other in zip(short, looped, strict=True):
                    alone = np.pad(some[row], (0, max(SECOND - len(some[row]), 0)))
                    found[row] = (found[row] + other + self._run([alone])[0]) / 3
            scores[first : first + batch] = found
        return scores


def main(work: Path, teacher: str, share: str = "0/1") -> None:
    """Step 3 of the lists: WORK/unlabelled_scores/PACKAGE.npy, float32 (candidates, 527), of each package."""
    first, step = map(int, share.split("/"))
    scorer = Scorer(teacher)
    (work / "unlabelled_scores").mkdir(exist_ok=True)
    packages = groupby((piece for piece in package_pieces(work) if piece.corpus == "candidates"), lambda p: p.source)
    for name, pieces in packages:
        waveforms = [piece.waveform for piece in pieces]
        target = work / "unlabelled_scores" / f"{name}.npy"
        if crc32(name.encode()) % step == first and not target.exists():
            scores = scorer.score(waveforms)
            np.save(target.with_suffix(".part.npy"), scores)
            target.with_suffix(".part.npy").rename(target)
            print(name, len(scores), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
