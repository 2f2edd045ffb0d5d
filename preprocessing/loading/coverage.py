"""How much there is to learn of each class: clips and sources that have it, by label or by a teacher's score."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocessing.clips.reader import ClipFile
from preprocessing.scenes import CONFIDENT

_BLOCK = 4096  # clips read at once


class Coverage(NamedTuple):
    """Of each class the number of clips and of sources that have it, int64 (C,) each."""

    clips: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]


def class_coverage(files: Sequence[ClipFile], excluded: Collection[str] = ()) -> Coverage:
    """What clips of these files cover; all must have the same classes.

    A clip has a class if it is labelled with it, or if the teacher's score stored beside it is above 0.5. Clips whose
    source is not known (`ClipFile.sources`) are sources of their own.

    Args:
        excluded: names of clips that do not count.
    """
    clips = np.zeros(len(files[0].labels), np.int64)
    unnamed = np.zeros_like(clips)
    heard_in: dict[str, npt.NDArray[np.bool_]] = {}  # (C,) of each source
    for file in files:
        names, sources = np.array(file.audio_names()), file.sources()
        kept = np.flatnonzero(~np.isin(names, list(excluded)))
        for rows in np.split(kept, range(_BLOCK, len(kept), _BLOCK)):
            present = file.read("target", rows).astype(np.bool_)
            if file.has_teacher:
                present |= file.read("teacher", rows) > CONFIDENT
            clips += present.sum(axis=0)
            if sources is None:
                unnamed += present.sum(axis=0)
                continue
            of_rows = np.array(sources)[rows]
            for source in np.unique(of_rows).tolist():
                heard = heard_in.setdefault(source, np.zeros(len(clips), np.bool_))
                heard |= present[of_rows == source].any(axis=0)
    return Coverage(clips, unnamed + sum(heard_in.values(), np.zeros_like(clips)))
