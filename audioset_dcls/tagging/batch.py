"""A run of `dcls-tag`: many recordings in, files or a stream of tags out, nothing lost on the way."""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from audioset_dcls import __version__
from audioset_dcls.tagging.journal import Journal
from audioset_dcls.tagging.recordings import STDIN, Recording, find_recordings
from audioset_dcls.tagging.tagger import Failure, OneChannel, Options, Result, Tagger
from audioset_dcls.tagging.writers import FORMATS, TEXT_FORMATS, Record, beside, clock, record_of, suffix_of, write_file
from preprocessing.audio import AudioError, channel_count
from preprocessing.terminal import show

EACH = "each"  # of the channels
COMBINED = "tags"  # the combined files' name: tags.csv, tags.json, ...
_LISTED = 20  # failures repeated at the end of a long run


class UsageError(ValueError):
    """Options that cannot go together; the message is one line."""


@dataclass(frozen=True)
class Outputs:
    """What to write, and where.

    formats: names of FORMATS. Without `folder` one text format goes to stdout as the recordings are done.
    folder: gets one combined file a format, `tags.csv` for example; label tracks (audacity, raven), plots and
        embeddings are one file a recording, named after it: `birds/dawn.flac.audacity.txt`.
    separate: one file a recording in every format.
    embeddings: (windows, D) float32 as .npy. plot: a .png, in the current folder where there is no `folder`.
    """

    formats: tuple[str, ...] = ("table",)
    folder: Path | None = None
    separate: bool = False
    timeline: bool = False
    embeddings: bool = False
    plot: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in FORMATS]:
            raise UsageError(f"format {unknown[0]!r} is unknown; choose from {','.join(FORMATS)}")
        if "parquet" in self.formats:
            try:
                import pyarrow  # noqa: F401
            except ImportError as error:
                raise UsageError("format parquet needs pyarrow: pip install pyarrow") from error
        if self.folder is None:
            if len(self.formats) != 1:
                raise UsageError("several formats need a folder to go to: add -o DIR")
            if self.formats == ("parquet",) or self.separate or self.embeddings:
                what = "parquet" if "parquet" in self.formats else "--separate" if self.separate else "--embeddings"
                raise UsageError(f"{what} needs a folder to write to: add -o DIR")


@dataclass
class Summary:
    """How a run ended."""

    tagged: int = 0
    resumed: int = 0
    seconds: float = 0.0  # of audio tagged in this run
    misplaced: list[str] = field(default_factory=list)  # tagged, but sound is missing and later times are too early
    failures: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        return 1 if self.failures or self.misplaced else 0


def run(
    inputs: Sequence[str],
    tagger: Tagger,
    options: Options,
    outputs: Outputs,
    resume: bool = True,
    quiet: bool = False,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
    each_channel: bool = False,
) -> Summary:
    """Tag everything that `inputs` name (see `find_recordings`) and write it.

    Errors and notes of single recordings go to stderr, one line each, and the rest goes on. With a folder to write to,
    a journal keeps what is done: the same call after a kill or Ctrl-C continues there (`resume`), and is refused while
    another process writes there. On an interrupt the combined files are written from what is done before it is raised
    again.
    each_channel: tag every channel of a file as a recording of its own, called `file#1`, `file#2`, ...

    Raises UsageError, JournalError, and OSError where the output cannot be written.
    """
    stdout, stderr = stdout or sys.stdout, stderr or sys.stderr
    found = find_recordings(inputs)
    if outputs.folder is None and TEXT_FORMATS[outputs.formats[0]].events_only and len(found.recordings) > 1:
        raise UsageError(f"{outputs.formats[0]} is one file a recording: add -o DIR")
    summary = Summary(failures=list(found.problems))
    for problem in found.problems:
        show(f"dcls-tag: {problem}", stderr)
    work = _Run(found.recordings, tagger, options, outputs, summary, quiet, stderr, each_channel)
    if outputs.folder is None:
        _to_stdout(work, stdout)
    else:
        _to_folder(work, outputs.folder, resume)
    work.report()
    return summary


def _to_stdout(work: _Run, stdout: TextIO) -> None:
    outputs = work.outputs
    with closing(work.tag(work.recordings)) as tagged:
        records = (record for _, records in tagged for record in records)
        for text in TEXT_FORMATS[outputs.formats[0]].render(records, outputs.timeline):
            stdout.write(text)
            stdout.flush()


def _to_folder(work: _Run, folder: Path, resume: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder, _fingerprint(work), resume)
    try:
        if journal.started_over:
            work.say(f"{journal.path}: starting over: {', '.join(journal.started_over)} changed since that run")
        remaining = [recording for recording in work.recordings if recording.path not in journal]
        work.summary.resumed = len(work.recordings) - len(remaining)
        if work.summary.resumed:
            work.say(f"{journal.path}: continuing: {work.summary.resumed} of {len(work.recordings)} are done")
        try:
            with closing(work.tag(remaining)) as tagged:
                for recording, records in tagged:
                    journal.add(recording.path, {"channels": records})
        finally:
            _write_combined(work, folder, journal)
    except BaseException:
        journal.close()
        raise
    journal.close(delete=not work.summary.failures)


def _write_combined(work: _Run, folder: Path, journal: Journal) -> None:
    for name in work.outputs.formats:
        if work.one_a_recording(name):
            continue
        paths = (recording.path for recording in work.recordings if recording.path in journal)
        records = (record for entry in journal.records(paths) for record in entry["channels"])
        write_file(folder / f"{COMBINED}{suffix_of(name)}", name, records, work.outputs.timeline)


def _fingerprint(work: _Run) -> dict[str, Any]:
    """All that a record depends on, apart from the recording."""
    settings, outputs = work.options.of(work.tagger), work.outputs
    return {
        "version": __version__,
        "model": hashlib.sha256(work.tagger.model.path.read_bytes()).hexdigest(),
        "window": settings.window,
        "hop": settings.hop,
        "threshold": settings.threshold,
        "top": settings.top,
        "labels": settings.labels,
        "channel": EACH if work.each_channel else settings.channel,
        # files of each recording are written with its record, so a run that wants others begins anew
        "files": [*sorted(filter(work.one_a_recording, outputs.formats)), outputs.embeddings, outputs.plot],
        "timeline": outputs.timeline,
    }


class _Run:
    """The state of one run: tags recordings, writes their own files, reports."""

    def __init__(
        self,
        recordings: list[Recording],
        tagger: Tagger,
        options: Options,
        outputs: Outputs,
        summary: Summary,
        quiet: bool,
        stderr: TextIO,
        each_channel: bool,
    ) -> None:
        self.recordings, self.tagger, self.outputs, self.summary = recordings, tagger, outputs, summary
        self.options = replace(options, timeline=outputs.plot, embeddings=outputs.embeddings)
        self.each_channel = each_channel
        self._quiet, self._stderr = quiet, stderr
        self._began = time.monotonic()
        # stdin is read once, a plot needs it twice
        self._stdin = _NamedBytes(sys.stdin.buffer.read()) if any(r.path == STDIN for r in recordings) else None

    def one_a_recording(self, name: str) -> bool:
        return self.outputs.separate or (name in TEXT_FORMATS and TEXT_FORMATS[name].events_only)

    def say(self, line: str) -> None:
        if not self._quiet:
            show(f"dcls-tag: {line}", self._stderr)

    def tag(self, recordings: Sequence[Recording]) -> Generator[tuple[Recording, list[Record]], None, None]:
        """The recordings that could be tagged, in order, each after its own files are written: a record a channel."""
        counts: deque[int] = deque()  # of the channels of each recording whose decoding has begun
        sources = (source for recording in recordings for source in self._sources(recording, counts))
        with (
            self._bar(recordings) as bar,
            closing(self.tagger.tag_all(sources, self.options, on_audio=bar and bar.audio)) as outcomes,
        ):
            for recording in recordings:
                channels = [next(outcomes)]
                channels += [next(outcomes) for _ in range(counts.popleft() - 1)]
                if records := self._tagged(recording, channels):
                    yield recording, records
                if bar is not None:
                    bar.recording()

    def _tagged(self, recording: Recording, channels: list[Result | Failure]) -> list[Record]:
        """The records of a recording, or [] after a complaint."""
        for outcome in channels:
            if isinstance(outcome, Failure):
                self._fail(outcome.message)
                return []
        results = [outcome for outcome in channels if isinstance(outcome, Result)]
        records = [record_of(result, self.options) for result in results]
        for number, (record, result) in enumerate(zip(records, results, strict=True), 1):
            self._write_own_files(recording, record, result, number)
            self._tell(result)
        self.summary.tagged += 1
        self.summary.seconds += results[0].duration
        return records

    def _tell(self, result: Result) -> None:
        if result.note is None:
            return
        if result.note.misplaced:
            self.summary.misplaced.append(result.source)
        if result.note.misplaced or not self._quiet:
            show(f"dcls-tag: {result.source}: {result.note.text}", self._stderr)

    def report(self) -> None:
        """The last words: rate and failures, where there was more to do than one recording."""
        summary = self.summary
        if len(self.recordings) < 2 or summary.resumed == len(self.recordings):
            return
        took = max(time.monotonic() - self._began, 1e-9)
        self.say(
            f"tagged {summary.tagged} of {len(self.recordings) - summary.resumed} recordings, "
            f"{clock(summary.seconds)} in {clock(took)} ({summary.seconds / took:.0f}x real time)"
            + f"; {len(summary.failures)} failed"
            * bool(summary.failures)
        )
        if summary.failures and len(self.recordings) > _LISTED:  # the lines above have long scrolled away
            for failure in summary.failures[:_LISTED]:
                self.say(f"failed: {failure}")
            if len(summary.failures) > _LISTED:
                self.say(f"failed: {len(summary.failures) - _LISTED} more")

    def _fail(self, message: str) -> None:
        self.summary.failures.append(message)
        show(f"dcls-tag: {message}", self._stderr)

    def _sources(self, recording: Recording, counts: deque[int]) -> Iterator[Any]:
        """What to tag of a recording; tells how many there are before it gives the first."""
        source = self._source(recording)
        if not self.each_channel:
            counts.append(1)
            yield source
            return
        if isinstance(source, io.BytesIO):  # whose place the channels would share
            source = source.getvalue()
        try:
            count = channel_count(source)
        except AudioError:  # tagging will say the same
            count = 1
        counts.append(count)
        for channel in range(1, count + 1):
            yield OneChannel(source, channel, _channel_name(recording.path, channel))

    def _source(self, recording: Recording) -> Any:
        if recording.path == STDIN and self._stdin is not None:
            self._stdin.seek(0)
            return self._stdin
        return recording.path

    def _write_own_files(self, recording: Recording, record: Record, result: Result, channel: int) -> None:
        name = _channel_name(recording.name, channel) if self.each_channel else recording.name
        outputs, base = self.outputs, (self.outputs.folder or Path()) / name
        for name in outputs.formats:
            if outputs.folder is not None and self.one_a_recording(name):
                write_file(base.with_name(base.name + suffix_of(name)), name, [record], outputs.timeline)
        if outputs.embeddings:
            with beside(base.with_name(f"{base.name}.npy")) as unfinished, unfinished.open("wb") as file:
                np.save(file, np.asarray(result.embeddings))
        if outputs.plot:
            from audioset_dcls.tagging.plot import plot

            target = base if outputs.folder is not None else Path(base.name)
            target = target.with_name(f"{target.name}.png")
            heard = channel if self.each_channel else self.options.channel
            plot(target, self.tagger.model, self._source(recording), result, self.options.threshold, heard)

    def _bar(self, recordings: Sequence[Recording]) -> Any:
        if self._quiet or not self._stderr.isatty():
            return nullcontext(None)
        from audioset_dcls.tagging.progress import Bar

        return Bar([recording.path for recording in recordings])


def _channel_name(name: str, channel: int) -> str:
    return f"{name}#{channel}"


class _NamedBytes(io.BytesIO):
    name = "stdin"
