"""The HDF5 layout of PANNs and DCLS-Audio, one file a split.

| dataset      | type                | holds                                                             |
| ------------ | ------------------- | ----------------------------------------------------------------- |
| `audio_name` | S (N,)              | the clip's name; for AudioSet PANNs' `Y<video id>.wav`             |
| `waveform`   | int16 (N, samples)  | 32 kHz mono, `float * 32767`; one chunk a clip, so one read a clip |
| `target`     | bool (N, C)         | the labels                                                        |
| `group`      | S (N,), optional    | what must not be split over train and test, e.g. the speaker      |
| `teacher`    | float16 (N, C), opt.| a teacher's scores                                                |
| `embedding`  | float16 (N, D), opt.| a teacher's pooled embedding                                      |

Attributes: `labels` (JSON list of C display names; absent in PANNs' files, which have the 527 of AudioSet),
`sample_rate`, `clip_count`, `clip_ids_sha256` (see `hash_ids`), and, if clips are padded with zeros, their true
lengths as `samples`, int32 (N,).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from preprocessing.audio import SAMPLE_RATE

CLIP_SAMPLES = 10 * SAMPLE_RATE
INT16_SCALE = 32_767  # PANNs': 1.0 <-> 32767
LONGEST_CLIP = 600 * SAMPLE_RATE  # samples of a clip in a file that is read
WIDEST_EMBEDDING = 65_536


class ClipFileError(ValueError):
    """An HDF5 file of clips that cannot be read or written; one line that names the file."""


def to_int16(waveform: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
    """Float waveform in [-1, 1] (clipped to it) -> int16 of the same shape, rounded to nearest."""
    return np.rint(np.clip(waveform, -1, 1) * INT16_SCALE).astype(np.int16)


def clip_id(audio_name: str) -> str:
    """The id of a clip: `Y<11 characters>.wav`, PANNs' name of an AudioSet clip, gives the video id; others stay whole.

    >>> clip_id("Y--PJHxphWEs.wav"), clip_id("dog/1.wav")
    ('--PJHxphWEs', 'dog/1.wav')
    """
    panns = re.fullmatch(r"Y([\w-]{11})\.wav", audio_name)
    return panns[1] if panns else audio_name


def hash_ids(audio_names: Iterable[str]) -> str:
    """SHA-256 of the sorted clip ids, one a line: equal for the same clips in whatever order they were written."""
    return hashlib.sha256("\n".join(sorted(map(clip_id, audio_names))).encode()).hexdigest()
