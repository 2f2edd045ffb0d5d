"""Join recordings end to end over faint noise, as the README's picture has them.

python docs/pictures/join_recordings.py joined.flac a.ogg b.wav ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parents[2]))

from preprocessing.audio import SAMPLE_RATE, read_audio

PAUSE = SAMPLE_RATE // 4

target, *sources = sys.argv[1:]
parts = [read_audio(source) for source in sources]
joined = np.concatenate([np.pad(part / (2 * np.abs(part).max()), (0, PAUSE)) for part in parts])
soundfile.write(target, joined + 1e-3 * np.random.default_rng(0).standard_normal(len(joined)), SAMPLE_RATE)
