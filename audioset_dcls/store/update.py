"""Recordings into a store: adds what is new or changed, removes what is gone, keeps the rest."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from audioset_dcls.store.database import LOWEST_SCORE, SCORE_UNIT, Database, Facts, StoreError, one_writer, stored_path
from audioset_dcls.store.vectors import catch_up, mark_as_lagging, to_bytes
from audioset_dcls.tagging.journal import file_state
from audioset_dcls.tagging.recordings import STDIN, find_recordings
from audioset_dcls.tagging.results import Failure, Options, Result
from audioset_dcls.tagging.tagger import Tagger
from preprocessing.audio import iter_audio
from preprocessing.decoding.header import read_header
from preprocessing.files import sha256_of
from preprocessing.terminal import show

if TYPE_CHECKING:
    from preprocessing.decoding.process import DecoderPool

_DIGITS = 3  # of a time in seconds


@dataclass
class Update:
    """What became of the recordings, and one line for each that failed."""

    added: int = 0
    changed: int = 0
    moved: int = 0  # under another path than before, with the same content
    removed: int = 0
    unchanged: int = 0
    windows: int = 0  # in the store
    misplaced: int = 0  # added, but sound is missing and later times are too early
    duplicates: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        return 1 if self.failures or self.misplaced else 0

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "changed": self.changed,
            "moved": self.moved,
            "removed": self.removed,
            "unchanged": self.unchanged,
            "twice there": len(self.duplicates),
            "failed": len(self.failures),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing to add"
        return f"{told}; {self.windows:,} windows"


def update(
    path: str | Path,
    inputs: Sequence[str],
    tagger: Tagger,
    window: float | None = None,
    hop: float | None = None,
    decoders: DecoderPool | None = None,
    quiet: bool = False,
    stderr: TextIO | None = None,
) -> Update:
    """Bring the store at `path` up to date with recordings; it is made if it is missing.

    Each recording is one transaction: after a kill the same call goes on with the next one. Errors and notes of single
    recordings go to stderr, one line each, and the rest goes on. A recording that cannot be read any more keeps its
    windows; one that is not there any more loses them, if it lay below a folder among `inputs`.

    Args:
        inputs: files, folders and globs, see `find_recordings`.
        window, hop: seconds; by default those of the store, for a new one those of the tagger.
        decoders: decode there; by default in this process.

    Raises StoreError if the store is damaged, of another model or other windows, or written by another process;
    ValueError for options that cannot be; OSError if it cannot be written.
    """
    path, stderr = Path(path), stderr or sys.stderr
    if STDIN in inputs:
        raise ValueError("a store holds files: stdin cannot be indexed")
    with one_writer(path), Database(path, writable=True, facts=_facts(tagger, window, hop)) as database:
        _check_windows(database, tagger, window, hop)
        work = _Work(database, inputs, tagger, decoders, quiet, stderr)
        work.run()
        work.remove_gone()
        catch_up(database, tagger.jobs)
        work.update.windows = database.value("SELECT count(*) FROM windows")
        return work.update


def _facts(tagger: Tagger, window: float | None, hop: float | None) -> Facts:
    settings = Options(window, hop).of(tagger)
    second = np.zeros((1, tagger.model.sample_rate), np.float32)
    (embedding,) = tagger.model.run(second, ("embedding",))
    path = tagger.model.path
    return Facts(sha256_of(path), path.name, settings.window, settings.hop, tagger.labels, embedding.shape[1])


def _check_windows(database: Database, tagger: Tagger, window: float | None, hop: float | None) -> None:
    facts = database.facts
    database.check_model(sha256_of(tagger.model.path), tagger.model.path.name)
    if (window or facts.window, hop or facts.hop) != (facts.window, facts.hop):
        raise StoreError(
            f"{database.path}: has windows of {facts.window:g} s every {facts.hop:g} s; "
            "leave out --window and --hop, or choose another -o"
        )


class _Work:
    """The state of one update."""

    def __init__(
        self,
        database: Database,
        inputs: Sequence[str],
        tagger: Tagger,
        decoders: DecoderPool | None,
        quiet: bool,
        stderr: TextIO,
    ) -> None:
        found = find_recordings(inputs)
        self.database, self.tagger, self.update = database, tagger, Update()
        self._paths = {os.path.abspath(recording.path): recording.path for recording in found.recordings}  # noqa: PTH100
        self._folders = [os.path.abspath(text) for text in inputs if Path(text).is_dir()]  # noqa: PTH100
        self._quiet, self._stderr = quiet, stderr
        self._decode = decoders.iter_audio if decoders else iter_audio
        self._header = decoders.header if decoders else read_header
        self._states: dict[str, list[int]] = {}
        self._old: dict[str, str] = {}  # path -> content
        for path, size, changed, content in database.query("SELECT path, size, changed, content FROM recordings"):
            self._states[path], self._old[path] = [size, changed], content
        self._contents: dict[str, str] = {}  # content -> the path that has it now
        self._moved: list[tuple[str, str, list[int]]] = []
        self._replaced: list[str] = []  # by what another recording holds already
        for problem in found.problems:
            self._fail(problem)

    def run(self) -> None:
        """Tag and store what is new or changed."""
        wanted = [path for path in self._paths if file_state(path) != self._states.get(path, 0)]
        self.update.unchanged = len(self._paths) - len(wanted)
        changed = set(wanted)
        self._contents = {content: path for path, content in self._old.items() if path not in changed}
        facts = self.database.facts
        options = Options(facts.window, facts.hop)
        pending: deque[tuple[str, list[int] | None, str]] = deque()
        with (
            self._bar(wanted) as bar,
            closing(
                self.tagger.tag_all(self._sources(wanted, pending), options, False, bar and bar.audio, self._decode)
            ) as outcomes,
        ):
            for outcome in outcomes:
                path, state, content = pending.popleft()
                if isinstance(outcome, Failure):
                    self._fail(outcome.message)
                elif state is None or file_state(path) != state:
                    self._fail(f"{outcome.source}: was written to while it was read; the same command indexes it again")
                else:
                    self._store(path, state, content, outcome)
                if bar is not None:
                    bar.recording()
        self._finish_known()

    def remove_gone(self) -> None:
        """Take out recordings that are no longer below the folders that were named.

        A folder without a single recording may be a disk that is not there: nothing below it is taken out.
        """
        folders = [folder for folder in self._folders if any(_is_below(path, folder) for path in self._paths)]
        stored = [path for (path,) in self.database.query("SELECT path FROM recordings ORDER BY id")]
        gone = [
            path
            for path in stored
            if path not in self._paths and any(_is_below(path, folder) for folder in folders) and _is_gone(path)
        ]
        for path in gone:
            with self.database.transaction():
                self._remove(path)
        self.update.removed = len(gone)

    def _sources(self, paths: Sequence[str], pending: deque[tuple[str, list[int] | None, str]]) -> Iterator[Any]:
        """What to tag, each after it is noted in `pending`; duplicates and moved recordings are dealt with here."""
        for path in paths:
            state, content = file_state(path), ""
            if state is not None:
                try:
                    content = sha256_of(Path(path))
                except OSError:  # decoding will say the same
                    state = None
            if state is not None and self._is_known(path, content, state):
                continue
            pending.append((path, state, content))
            yield self._paths[path]

    def _is_known(self, path: str, content: str, state: list[int]) -> bool:
        """Whether the store has the content already: under this path, one that is gone, or one that is there, too."""
        other = self._contents.get(content)
        if other is None and self._old.get(path) == content:
            other = path
        self._contents.setdefault(content, path)
        if other is None:
            return False
        if other == path or _is_gone(other):
            self._moved.append((other, path, state))
            self._contents[content] = path
            return True
        self.update.duplicates.append(path)
        self._say(f"{self._paths[path]}: the same content as {other}; not added twice")
        if path in self._states:
            self._replaced.append(path)
        return True

    def _store(self, path: str, state: list[int], content: str, result: Result) -> None:
        assert result.timeline is not None
        assert result.embeddings is not None
        with self.database.transaction():
            self._remove(path)
            self.database.write("DELETE FROM recordings WHERE content = ?", [(content,)])
            row = [stored_path(path), *state, content, round(result.duration, _DIGITS)]
            recording = self.database.insert(
                "INSERT INTO recordings (path, size, changed, content, duration) VALUES (CAST(? AS TEXT), ?, ?, ?, ?)",
                row,
            )
            scores: list[tuple[int, int, int]] = []
            for start, embedding, values in zip(result.starts, result.embeddings, result.timeline, strict=True):
                end = min(start + result.window, result.duration)
                window = self.database.insert(
                    'INSERT INTO windows (recording, start, "end", embedding) VALUES (?, ?, ?, ?)',
                    [recording, round(float(start), _DIGITS), round(float(end), _DIGITS), to_bytes(embedding)],
                )
                kept = np.flatnonzero(values >= LOWEST_SCORE)
                units = np.rint(values[kept] * SCORE_UNIT).astype(int)
                scores += zip([window] * len(kept), kept.tolist(), units.tolist(), strict=True)
            self.database.write("INSERT INTO scores VALUES (?, ?, ?)", scores)
            mark_as_lagging(self.database)
        if path in self._states:
            self.update.changed += 1
        else:
            self.update.added += 1
        if result.note is not None:
            self.update.misplaced += result.note.misplaced
            if result.note.misplaced or not self._quiet:
                show(f"dcls-index: {result.source}: {result.note.text}", self._stderr)

    def _finish_known(self) -> None:
        for old, path, state in self._moved:
            with self.database.transaction():
                self.database.write(
                    "UPDATE recordings SET path = CAST(? AS TEXT), size = ?, changed = ? WHERE path = CAST(? AS TEXT)",
                    [(stored_path(path), *state, stored_path(old))],
                )
            self.update.moved += old != path
            self.update.unchanged += old == path
        for path in self._replaced:
            with self.database.transaction():
                self._remove(path)

    def _remove(self, path: str) -> None:
        self.database.write("DELETE FROM recordings WHERE path = CAST(? AS TEXT)", [(stored_path(path),)])
        mark_as_lagging(self.database)

    def _fail(self, message: str) -> None:
        self.update.failures.append(message)
        show(f"dcls-index: {message}", self._stderr)

    def _say(self, line: str) -> None:
        if not self._quiet:
            show(f"dcls-index: {line}", self._stderr)

    def _bar(self, paths: Sequence[str]) -> Any:
        if self._quiet or not self._stderr.isatty():
            return nullcontext(None)
        from audioset_dcls.tagging.progress import Bar

        return Bar(paths, lambda path: self._header(path).seconds)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))  # noqa: PTH118


def _is_gone(path: str) -> bool:
    """Not for a file that may be there and cannot be looked at."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
