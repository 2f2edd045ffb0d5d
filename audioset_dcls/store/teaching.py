"""A tagger with own classes, from a handful of examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audioset_dcls.store.database import Database
from audioset_dcls.store.examples import ExamplesError, read_examples
from audioset_dcls.store.fit import Lesson, confusion_names, learn
from audioset_dcls.store.graph import write_tagger
from audioset_dcls.store.samples import collect
from audioset_dcls.store.search import shown_path
from audioset_dcls.tagging.contract import EMBEDDING
from audioset_dcls.tagging.results import Decode
from audioset_dcls.tagging.selection import write_thresholds
from audioset_dcls.tagging.tagger import Tagger
from audioset_dcls.tagging.writers.formats import clock
from preprocessing.audio import iter_audio
from preprocessing.files import sha256_of
from preprocessing.terminal import printable

THRESHOLDS = ".thresholds.csv"  # ends the name of the file beside the tagger


@dataclass(frozen=True)
class Taught:
    """What `teach` wrote: `path` of the tagger, `thresholds` of the CSV beside it; `lesson`, what to expect.

    failures: one line for each example that could not be read. seconds: that it took.
    """

    path: Path
    thresholds: Path
    lesson: Lesson
    failures: tuple[str, ...]
    seconds: float

    def report(self) -> str:
        """For people: what to expect on recordings that were not learned from."""
        return "\n".join([*_expectations(self.lesson), "", *_confusion(self.lesson), *_doubts(self.lesson)]) + "\n"


def teach(
    examples: str | Path | None,
    output: str | Path,
    tagger: Tagger | None = None,
    store: str | Path | None = None,
    add: bool = False,
    precision: float = 0.9,
    decode: Decode = iter_audio,
    on_note: Callable[[str], None] = lambda line: None,
) -> Taught:
    """Learn own classes and write a tagger that has them, which `Tagger` and `dcls-tag --model` open.

    Args:
        examples: a folder or CSV, see `read_examples`; None learns from the answers in `store` alone.
        output: the .onnx file to write; a CSV for `dcls-tag --thresholds` goes beside it.
        tagger: whose embeddings are learned from; by default the embedded one.
        store: take the answers given in `dcls-review` from it, too.
        add: keep the tagger's classes beside the new ones.
        precision: wanted at the thresholds.
        decode: called like `iter_audio`; `DecoderPool.iter_audio` decodes in other processes.
        on_note: gets one line for each recording that is there twice and the like.

    An example that cannot be read is left out. Raises ExamplesError for examples that nothing can be learned from,
    StoreError, ModelError, OSError if it cannot be written.
    """
    began, tagger, path = time.monotonic(), tagger or Tagger(), Path(output)
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: a tagger's name must end in .onnx")
    if not 0 < precision < 1:
        raise ValueError(f"precision must be above 0 and below 1, not {precision:g}")
    tagger.model.require(EMBEDDING)
    found = [] if examples is None else read_examples(Path(examples))
    failures: list[str] = []
    window, hop = tagger.window, tagger.hop
    with ExitStack() as stack:
        database = None if store is None else stack.enter_context(Database(store))
        if database is not None:
            database.check_model(sha256_of(tagger.model.path), tagger.model.path.name)
            window, hop = database.facts.window, database.facts.hop
        samples = collect(found, tagger, window, hop, database, decode, failures.append, on_note)
    try:
        lesson = learn(samples, precision)
    except ExamplesError as error:
        unread = f"; {len(failures)} examples cannot be read: {failures[0]}" if failures else ""
        raise ExamplesError(f"{examples or store}: {error}{unread}") from None
    if add and (both := [label for label in lesson.labels if label in tagger.labels]):
        raise ExamplesError(f"{examples or store}: the tagger has a class {both[0]!r} already; give it another name")
    facts = {
        "base": sha256_of(tagger.model.path),
        "classes": {one.label: {**vars(one)} for one in lesson.expected},
        "strength": lesson.strength,
        "class_weight": lesson.class_weight,
    }
    write_tagger(tagger.model.path, path, lesson.labels, lesson.weight, lesson.bias, facts, add)
    thresholds = path.with_suffix(THRESHOLDS)
    write_thresholds(thresholds, {one.label: one.threshold for one in lesson.expected})
    return Taught(path, thresholds, lesson, tuple(failures), time.monotonic() - began)


def _expectations(lesson: Lesson) -> list[str]:
    rows = [("class", "clips", "recordings", "average precision", "threshold", "precision", "recall")]
    rows += [
        (
            printable(one.label),
            f"{one.clips}",
            f"{one.recordings}",
            f"{one.average_precision:.2f} ({one.low:.2f} to {one.high:.2f})",
            f"{one.threshold:.3f}",
            f"{one.precision:.2f}",
            f"{one.recall:.2f}",
        )
        for one in lesson.expected
    ]
    return _columns(rows)


def _confusion(lesson: Lesson) -> list[str]:
    names, heard = confusion_names([printable(label) for label in lesson.labels])
    rows = [("clips of \\ heard as", *heard)]
    rows += [(name, *map(str, counts)) for name, counts in zip(names, lesson.confusion.tolist(), strict=True)]
    return _columns(rows)


def _doubts(lesson: Lesson) -> list[str]:
    if not lesson.doubts:
        return []
    lines = ["", "most doubtful, listen whether their class is right:"]
    for doubt in lesson.doubts:
        score = "" if doubt.score is None else f" {doubt.score:.2f}"
        at = f" at {clock(doubt.start)}" if doubt.start else ""
        lines.append(
            f"  {printable(shown_path(doubt.path))}{at}: {printable(doubt.label)}{score}, "
            f"{printable(doubt.heard)} {doubt.heard_score:.2f}"
        )
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text in columns, the first one to the left."""
    widths = np.array([[len(cell) for cell in row] for row in rows]).max(axis=0)
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
