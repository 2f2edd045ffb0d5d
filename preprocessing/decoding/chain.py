"""Decoding an Ogg file by its links and runs, each at its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from preprocessing.decoding import ffmpeg, libsndfile
from preprocessing.decoding.ogg import Link, Links, Run
from preprocessing.decoding.ranges import Ranges
from preprocessing.decoding.spans import AudioError, Findings, Mix, Span

_LATE = 60.0  # s: a stream whose count begins later was cut out of an endless one; its own time zero is unknown


def decode(file: IO[bytes], ogg: Links, mix: Mix, findings: Findings) -> Iterator[Span]:
    """The samples of every run of every link. Raises what libsndfile raises if the file is one run."""
    if ogg.lost:
        findings.say("streams in it without a readable header are left out", misplaced=True)
    if not ogg.complete:
        findings.say("it has no end mark, so its end may be missing")
    begin = 0.0
    for link in ogg.links:
        first = link.runs[0].start
        if first > _LATE:
            findings.say(f"its own clock begins at {first:.0f} s; times are counted from its first sound")
            begin -= first
        if len(ogg.links) == len(link.runs) == 1:
            yield from _moved(libsndfile.decode(file, mix, Findings()), begin + first)
        else:
            for run in link.runs:
                yield from _moved(_run(file, link, run, mix, findings), begin + run.start)
        begin += link.seconds
    findings.declared = begin


def _run(file: IO[bytes], link: Link, run: Run, mix: Mix, findings: Findings) -> Iterator[Span]:
    """The samples of a run as far as a decoder reads them; the next run has its own place."""
    pages: Any = Ranges(file, [link.header, (run.begin, run.end)])
    begun = False
    try:
        for span in libsndfile.decode(pages, mix, Findings()):
            yield span
            begun = True
        return
    except AudioError:  # of the mix
        raise
    except Exception:
        if begun:
            findings.damaged += 1
            return
    try:
        yield from ffmpeg.decode("", pages, mix, Findings())
    except AudioError:
        findings.damaged += 1


def _moved(spans: Iterator[Span], start: float) -> Iterator[Span]:
    """The same spans, with the first one at `start`."""
    offset: float | None = None
    for span in spans:
        if offset is None:
            offset = start - (span.start or 0.0)
            yield span._replace(start=start)
        else:
            yield span if span.start is None else span._replace(start=span.start + offset)
