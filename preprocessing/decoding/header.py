"""What a file's header says of its sound, without decoding it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from preprocessing.decoding import ffmpeg, mp3


class Header(NamedTuple):
    """Length in seconds and sample rate in Hz; None for what the header does not tell."""

    seconds: float | None = None
    rate: int | None = None


def read_header(path: str) -> Header:
    """The header of a regular file; an empty one for what is no such file or no audio."""
    import soundfile

    try:
        if not Path(path).is_file():
            return Header()
        with Path(path).open("rb") as file:
            file.seek(mp3.tags_end(file))
            if mp3.begins_frame(file.read(4)):  # libsndfile complains of tags on stderr
                return Header(*ffmpeg.describe(file))
    except (OSError, ValueError):
        return Header()
    try:
        info = soundfile.info(path)
    except (OSError, RuntimeError):
        with Path(path).open("rb") as file:
            return Header(*ffmpeg.describe(file))
    return Header(float(info.duration), int(info.samplerate))
