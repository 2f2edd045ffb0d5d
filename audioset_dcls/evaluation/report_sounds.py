"""The sounds of the most confident mistakes, small enough to lie in the report's page."""

from __future__ import annotations

import io
from itertools import chain, zip_longest

import soundfile

from audioset_dcls.evaluation.report_page import most_confident
from audioset_dcls.evaluation.summary import Summary
from preprocessing.audio import SAMPLE_RATE
from preprocessing.clips.reader import ClipFile

LIMIT = 4_000_000  # bytes of MP3 in one page: 40 clips of each kind, if they last 10 s
_SECONDS = 30  # of a clip


def mistake_sounds(summary: Summary, data: ClipFile, limit: int = LIMIT) -> dict[int, bytes]:
    """MP3 files of clips of `data` by index, the worst mistakes first, `limit` bytes at most in all.

    Args:
        data: the file that `summary` is of. A clip's first 30 s are kept.
    """
    kinds = [most_confident(summary, positives)[0].tolist() for positives in (False, True)]
    clips = dict.fromkeys(clip for clip in chain(*zip_longest(*kinds)) if clip is not None)
    sounds: dict[int, bytes] = {}
    for clip in clips:
        content = io.BytesIO()
        waveform = data.waveform(clip)[: _SECONDS * SAMPLE_RATE]
        # MP3 plays in every browser; libsndfile's smallest quality, some 40 kbit/s, is enough to judge a label
        soundfile.write(content, waveform, SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.9)
        if content.tell() + sum(map(len, sounds.values())) > limit:
            break
        sounds[clip] = content.getvalue()
    return sounds
