"""A run of `dcls-tag`: many recordings in, files or a stream of tags out, nothing lost on the way."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from audioset_dcls import __version__
from audioset_dcls.tagging.clips import BLOCK, ClipPicker, clip_rate, clip_stems, write_clips
from audioset_dcls.tagging.contract import EMBEDDING, LOG_MEL
from audioset_dcls.tagging.journal import FolderRemovedError, Journal, file_state
from audioset_dcls.tagging.outputs import Outputs, UsageError
from audioset_dcls.tagging.recordings import STDIN, Found, Recording, flat_names
from audioset_dcls.tagging.results import Failure, OneChannel, Options, Result
from audioset_dcls.tagging.stdin import Stdin, read_stdin
from audioset_dcls.tagging.tagger import Tagger
from audioset_dcls.tagging.windows import window_warning
from audioset_dcls.tagging.writers import FORMATS
from audioset_dcls.tagging.writers.formats import Record, clock, specific
from audioset_dcls.tagging.writers.summary import Totals
from preprocessing.audio import MIX, AudioError, channel_count, iter_audio
from preprocessing.decoding.header import read_header
from preprocessing.files import atomic_write, sha256_of
from preprocessing.recorders import start_time
from preprocessing.terminal import show

if TYPE_CHECKING:
    from preprocessing.decoding.process import DecoderPool

EACH = "each"  # of the channels
_LISTED = 20  # failures repeated at the end of a long run, classes in its table
_LONG = 600.0  # s of audio: a single recording of that length gets the table, too
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # what keeps every other file from being written, too


@dataclass
class Summary:
    """How a run ended."""

    tagged: int = 0
    resumed: int = 0
    seconds: float = 0.0  # of audio tagged in this run
    misplaced: list[str] = field(default_factory=list)  # tagged, but sound is missing and later times are too early
    changed: list[str] = field(default_factory=list)  # recordings that were written to while they were read
    failures: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        return 1 if self.failures or self.misplaced else 0


def run(
    found: Found,
    tagger: Tagger,
    options: Options,
    outputs: Outputs,
    resume: bool = True,
    quiet: bool = False,
    each_channel: bool = False,
    decoders: DecoderPool | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> Summary:
    """Tag what `find_recordings` found and write it.

    Errors and notes of single recordings go to stderr, one line each, and the rest goes on. With a folder to write to,
    a journal keeps what is done: the same call after a kill or Ctrl-C continues there (`resume`), and is refused while
    another process writes there. On an interrupt the combined files are written from what is done before it is raised
    again.

    Args:
        each_channel: tag every channel of a file as a recording of its own, called `file#1`, `file#2`, ...
        decoders: decode there, so that a decoder which crashes costs one recording; by default in this process.

    Raises UsageError, JournalError, ModelError, and OSError if the output cannot be written at all.
    """
    stdout, stderr = stdout or sys.stdout, stderr or sys.stderr
    if outputs.folder is None and FORMATS[outputs.formats[0]].of == "recording" and len(found.recordings) > 1:
        raise UsageError(f"{outputs.formats[0]} is one file a recording: add -o DIR")
    tagger.model.require(*[EMBEDDING] * outputs.embeddings, *[LOG_MEL] * outputs.plot)
    summary = Summary(failures=list(found.problems))
    for problem in found.problems:
        show(f"dcls-tag: {problem}", stderr)
    work = _Run(found, tagger, options, outputs, summary, quiet, stderr, each_channel, decoders)
    if warning := window_warning(work.options.of(tagger).window, tagger.clip_seconds):
        work.say(warning)
    if outputs.folder is None:
        _to_stdout(work, stdout)
    else:
        _to_folder(work, outputs.folder, resume)
    work.report()
    return summary


def _to_stdout(work: _Run, stdout: TextIO) -> None:
    outputs = work.outputs
    with closing(work.tag(work.recordings)) as tagged:
        records = (work.counted(recording, record) for recording, records in tagged for record in records)
        for text in FORMATS[outputs.formats[0]].text(records, outputs.view):
            stdout.write(text)
            stdout.flush()
    work.write_clips()


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
                    if not journal.add(recording.path, {"channels": records}, work.state_before(recording)):
                        work.warn_of_change(records[0]["file"])
        finally:
            journal.check_folder()
            _write_combined(work, folder, journal)
        for recording in work.recordings:
            for entry in journal.records([recording.path]):
                for record in entry["channels"]:
                    work.counted(recording, record)
        work.write_clips()
    except BaseException:
        journal.close()
        raise
    journal.close(delete=not work.summary.failures and not work.summary.changed)


def _write_combined(work: _Run, folder: Path, journal: Journal) -> None:
    for name, file in work.outputs.combined.items():
        FORMATS[name].write(folder / file, _records(work, journal), work.outputs.view)


def _records(work: _Run, journal: Journal) -> Iterator[Record]:
    """All that is done, in the order of the recordings."""
    for entry in journal.records(recording.path for recording in work.recordings):
        yield from entry["channels"]


def _fingerprint(work: _Run) -> dict[str, Any]:
    """All that a record depends on, apart from the recording."""
    settings, outputs = work.options.of(work.tagger), work.outputs
    own_formats = sorted(outputs.own)
    return {
        "version": __version__,
        "model": sha256_of(work.tagger.model.path),
        **settings.fingerprint(),
        **({"channel": EACH} if work.each_channel else {}),
        # files of each recording are written with its record, so a run that wants others, or other names, begins anew
        "files": [*own_formats, outputs.embeddings, outputs.plot],
        "common folder": work.root if own_formats or outputs.embeddings or outputs.plot else None,
        "timeline": outputs.timeline,
        "all levels": outputs.all_levels,
    }


class _Run:
    """The state of one run: tags recordings, writes their own files, reports."""

    def __init__(
        self,
        found: Found,
        tagger: Tagger,
        options: Options,
        outputs: Outputs,
        summary: Summary,
        quiet: bool,
        stderr: TextIO,
        each_channel: bool,
        decoders: DecoderPool | None,
    ) -> None:
        self.recordings, self.root = found.recordings, found.root
        self.tagger, self.outputs, self.summary = tagger, outputs, summary
        self.options = replace(options, timeline=outputs.plot, embeddings=outputs.embeddings)
        self.each_channel = each_channel
        self._quiet, self._stderr = quiet, stderr
        self._totals = Totals()
        self._clips = None if outputs.clips is None else ClipPicker(outputs.clips, outputs.clip_count)
        self._began = time.monotonic()
        # stdin is read once, a plot needs it twice
        self._stdin = read_stdin() if any(recording.path == STDIN for recording in self.recordings) else None
        self._decode = decoders.iter_audio if decoders else iter_audio
        self._channel_count = decoders.channel_count if decoders else channel_count
        self._header = decoders.header if decoders else read_header
        self._states: dict[str, list[int] | None] = {}  # of the recordings that are being decoded
        self._flat_names = flat_names(self.recordings) if outputs.plot and outputs.folder is None else {}

    def counted(self, recording: Recording, record: Record) -> Record:
        """The record, added to what the last words tell and to what clips are taken from."""
        shown = record if self.outputs.all_levels else specific(record)
        self._totals.add(shown)
        if self._clips is not None:
            self._clips.add(recording, shown)
        return record

    def write_clips(self) -> None:
        """The events that were picked, each from its recording, which is decoded once more."""
        if self._clips is None:
            return
        folder, picked, stems = self._clips.folder, self._clips.picked(), clip_stems(self.recordings)
        written = 0
        for recording in self.recordings:
            for record, events in picked.get(recording.path, ()):
                try:
                    write_clips(folder, stems[recording.path], record, events, self._blocks(recording, record))
                    written += len(events)
                except AudioError as error:  # it can be read no more
                    self._fail(str(error))
        self.say(f"{folder}: wrote {written} clips")

    def _blocks(self, recording: Recording, record: Record) -> Iterator[np.ndarray]:
        channel = self.options.channel if record["channel"] is None else record["channel"]
        rate = clip_rate(record)
        return self._decode(self._source(recording), BLOCK, rate, channel, lambda note: None)

    def say(self, line: str) -> None:
        if not self._quiet:
            show(f"dcls-tag: {line}", self._stderr)

    def tag(self, recordings: Sequence[Recording]) -> Generator[tuple[Recording, list[Record]], None, None]:
        """The recordings that could be tagged, in order, each after its own files are written: a record a channel."""
        counts: deque[int] = deque()  # of the channels of each recording whose decoding has begun
        sources = (source for recording in recordings for source in self._sources(recording, counts))
        with (
            self._bar(recordings) as bar,
            closing(self.tagger.tag_all(sources, self.options, False, bar and bar.audio, self._decode)) as outcomes,
        ):
            for recording in recordings:
                channels = [next(outcomes)]
                channels += [next(outcomes) for _ in range(counts.popleft() - 1)]
                if records := self._tagged(recording, channels):
                    yield recording, records
                self._states.pop(recording.path, None)
                if bar is not None:
                    bar.recording()

    def _tagged(self, recording: Recording, channels: list[Result | Failure]) -> list[Record]:
        """The records of a recording, or [] after a complaint."""
        for outcome in channels:
            if isinstance(outcome, Failure):
                self._fail(outcome.message)
                return []
        results = [outcome for outcome in channels if isinstance(outcome, Result)]
        facts = self._facts(recording)
        records = [
            {**result.to_dict(self.options.top), **facts, "channel": channel}
            for result, channel in zip(results, self._channels(len(results)), strict=True)
        ]
        for number, (record, result) in enumerate(zip(records, results, strict=True), 1):
            if not self._write_own_files(recording, record, result, number):
                return []
            self._tell(result)
        self.summary.tagged += 1
        self.summary.seconds += results[0].duration
        return records

    def _facts(self, recording: Recording) -> Record:
        """What a record holds that is known of the file itself."""
        settings = self.tagger.model.log_mel_settings
        is_file = recording.path != STDIN
        rate = self._header(recording.path).rate if is_file else None
        recorded = start_time(recording.path) if is_file else None
        high = settings.f_max if rate is None else min(settings.f_max, rate / 2)
        return {
            "path": os.path.abspath(recording.path) if is_file else None,  # noqa: PTH100 - links stay
            "rate": rate,
            "band": [min(settings.f_min, high), high],
            "recorded": recorded and recorded.isoformat(),
        }

    def _channels(self, count: int) -> Sequence[int | None]:
        """Of each record of a recording, the channel that was heard; None for their mix."""
        if self.each_channel:
            return range(1, count + 1)
        return [None if self.options.channel == MIX else int(self.options.channel)]

    def _tell(self, result: Result) -> None:
        if result.note is None:
            return
        if result.note.misplaced:
            self.summary.misplaced.append(result.source)
        if result.note.misplaced or not self._quiet:
            show(f"dcls-tag: {result.source}: {result.note.text}", self._stderr)

    def state_before(self, recording: Recording) -> list[int] | None:
        """Size and time of change of the recording that is being written, from before it was decoded."""
        return self._states.get(recording.path)

    def warn_of_change(self, file: str) -> None:
        self.summary.changed.append(file)
        show(f"dcls-tag: {file}: was written to while it was read; the same command tags it again", self._stderr)

    def report(self) -> None:
        """The last words: what was written and heard; rate and failures, if there was more to do than one recording."""
        summary = self.summary
        if self.outputs.folder is not None and self._totals.recordings:
            self.say(f"{self.outputs.folder}: wrote {self.outputs.written()}")
        for_people = self.outputs.folder is not None or self.outputs.formats == ("table",)
        is_long = self._totals.recordings > 1 or self._totals.seconds >= _LONG
        if for_people and is_long and self._totals.classes and not self._quiet:
            for line in self._totals.table(_LISTED):
                show(line, self._stderr)
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
        if recording.path != STDIN:
            self._states[recording.path] = file_state(recording.path)
        source = self._source(recording)
        if not self.each_channel:
            counts.append(1)
            yield source
            return
        if isinstance(source, Stdin):  # whose place the channels would share
            source = source.readall()
        try:
            count = self._channel_count(source)
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

    def _write_own_files(self, recording: Recording, record: Record, result: Result, channel: int) -> bool:
        """False if they cannot be written although others can: that recording has failed."""
        folder = self.outputs.folder
        if folder is not None and not folder.is_dir():  # writing would make it anew
            raise FolderRemovedError(f"{folder}: was removed while this run wrote to it; run it again")
        try:
            self._try_own_files(recording, record, result, channel)
        except AudioError as error:  # it can be read no more, for the plot
            self._fail(str(error))
        except OSError as error:
            if error.errno in _DISK:
                raise
            name = Path(error.filename or recording.name).name
            self._fail(f"{record['file']}: {name}: cannot be written: {error.strerror or error}")
        else:
            return True
        return False

    def _try_own_files(self, recording: Recording, record: Record, result: Result, channel: int) -> None:
        outputs = self.outputs
        name = recording.name if outputs.folder is not None else self._flat_names.get(recording.path, recording.name)
        base = (outputs.folder or Path()) / (_channel_name(name, channel) if self.each_channel else name)
        if outputs.folder is not None:
            for name in outputs.own:
                FORMATS[name].write(base.with_name(base.name + FORMATS[name].suffix), [record], outputs.view)
        if outputs.embeddings:
            with atomic_write(base.with_name(f"{base.name}.npy")) as unfinished, unfinished.open("wb") as file:
                np.save(file, np.asarray(result.embeddings))
        if outputs.plot:
            from audioset_dcls.tagging.plot import plot

            target, source = base.with_name(f"{base.name}.png"), self._source(recording)
            heard = channel if self.each_channel else self.options.channel
            plot(target, self.tagger.model, source, result, outputs.all_levels, heard, self._decode)

    def _bar(self, recordings: Sequence[Recording]) -> Any:
        if self._quiet or not self._stderr.isatty():
            return nullcontext(None)
        from audioset_dcls.tagging.progress import Bar

        return Bar([recording.path for recording in recordings], lambda path: self._header(path).seconds)


def _channel_name(name: str, channel: int) -> str:
    return f"{name}#{channel}"
