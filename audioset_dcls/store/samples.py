"""Examples and answers -> embeddings with classes: what is learned from."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.store.cut import cut_parts
from audioset_dcls.store.database import Database
from audioset_dcls.store.examples import Example
from audioset_dcls.tagging.results import Decode, Failure, Options
from audioset_dcls.tagging.tagger import Tagger
from preprocessing.audio import AudioError, iter_audio
from preprocessing.files import sha256_of
from preprocessing.terminal import first_line


@dataclass
class Clip:
    """An example, or an answered window.

    Attributes:
        path; start, end: seconds, `end` None for the recording's end.
        content: SHA-256 of the recording.
        labels: its classes. judged: the one class that an answer tells of; None where all are known.
    """

    path: str
    start: float
    end: float | None
    content: str
    labels: set[str] = field(default_factory=set)
    judged: str | None = None


@dataclass
class Samples:
    """clips; embeddings (N, D) float32 of their windows; clip (N,): the number of each window's clip."""

    clips: list[Clip]
    embeddings: np.ndarray
    clip: np.ndarray


def collect(
    examples: Sequence[Example],
    tagger: Tagger,
    window: float,
    hop: float,
    database: Database | None = None,
    decode: Decode = iter_audio,
    on_failure: Callable[[str], None] = lambda line: None,
    on_note: Callable[[str], None] = lambda line: None,
) -> Samples:
    """Embed examples, and take the answered windows of a store.

    A recording that is there twice counts once, with the classes of both. A part that is shorter than a window is
    widened to one: that is what a tagger hears of it.

    Args:
        window, hop: seconds.
        database: of a store with answers.
        decode: called like `iter_audio`.
        on_failure, on_note: get one line for each example that cannot be read, and for what is there twice.
    """
    pending: deque[Clip] = deque()
    kept: list[Clip] = []
    rows: list[np.ndarray] = []
    sources = _sources(examples, tagger.model.sample_rate, window, pending, decode, on_failure, on_note)
    for outcome in tagger.tag_all(sources, Options(window, hop, timeline=False), decode=decode):
        clip = pending.popleft()
        if isinstance(outcome, Failure):
            on_failure(outcome.message)
            continue
        assert outcome.embeddings is not None
        kept.append(clip)
        rows.append(outcome.embeddings)
    if database is not None:
        for clip, embedding in _answered(database, on_note):
            kept.append(clip)
            rows.append(embedding[None])
    numbers = np.repeat(np.arange(len(kept)), [len(values) for values in rows])
    size = rows[0].shape[1] if rows else 0
    return Samples(kept, np.concatenate(rows) if rows else np.empty((0, size), np.float32), numbers)


def _sources(
    examples: Sequence[Example],
    rate: int,
    window: float,
    pending: deque[Clip],
    decode: Decode,
    on_failure: Callable[[str], None],
    on_note: Callable[[str], None],
) -> Iterator[Any]:
    """What to embed, each after its clip is put into `pending`."""
    known: dict[tuple[str, float, float | None], Clip] = {}
    contents: dict[str, str] = {}
    order = sorted(examples, key=lambda example: (example.path, example.start))
    for path, group in itertools.groupby(order, key=lambda example: example.path):
        try:
            content = sha256_of(Path(path))
        except OSError as error:
            on_failure(f"{path}: cannot be read: {error.strerror or first_line(error)}")
            continue
        if (other := contents.setdefault(content, path)) != path:
            on_note(f"{path}: the same content as {other}; counts once")
        parts: list[Clip] = []
        for example in group:
            place = (content, example.start, example.end)
            if place not in known:
                known[place] = Clip(path, example.start, example.end, content)
                parts.append(known[place])
            if example.label is not None:
                known[place].labels.add(example.label)
        whole = [clip for clip in parts if (clip.start, clip.end) == (0.0, None)]
        for clip in whole:
            pending.append(clip)
            yield path
        cut = [clip for clip in parts if clip not in whole]
        places = [(clip.start, clip.end) for clip in cut]
        try:
            for clip, samples in zip(cut, cut_parts(path, places, rate, window, decode), strict=True):
                if samples is None:
                    on_failure(f"{path}: ends before the example at {clip.start:.1f} s")
                    continue
                pending.append(clip)
                yield samples
        except AudioError as error:
            on_failure(str(error))


def _answered(database: Database, on_note: Callable[[str], None]) -> Iterator[tuple[Clip, np.ndarray]]:
    """Windows of a store that were judged "yes" or "no", where their recordings are still in it."""
    lost = 0
    rows = database.query("SELECT content, start, \"end\", label, answer FROM answers WHERE answer IN ('yes', 'no')")
    for content, start, end, label, answer in list(rows):
        found = database.query(
            "SELECT path, embedding FROM windows JOIN recordings ON recordings.id = recording "
            'WHERE content = ? AND start = ? AND windows."end" = ?',
            [content, start, end],
        )
        path, embedding = next(found, (None, None))
        if embedding is None:
            lost += 1
            continue
        labels = {label} if answer == "yes" else set()
        clip = Clip(path, start, end, content, labels, judged=label)
        yield clip, np.frombuffer(embedding, "<f2").astype(np.float32)
    if lost:
        on_note(f"{database.path}: {lost} answers are about recordings that are not in it any more")
