"""One worker of a cluster: a tagger, decoders beside it, and the parts that it is given. Knows nothing of Ray."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.cluster.folder import EMBEDDINGS, EVENTS, FAILURES, TAGGER, TAGS, Folder
from audioset_dcls.cluster.inputs import Input, is_remote, open_input
from audioset_dcls.tagging.results import Failure, Options
from audioset_dcls.tagging.tagger import Tagger
from audioset_dcls.tagging.writers import FORMATS
from audioset_dcls.tagging.writers.formats import Record, View
from preprocessing.audio import AudioError, Note
from preprocessing.constants import AUDIO_SUFFIXES
from preprocessing.corpora.archives import Member, Row, Slice, table_rows, tar_members
from preprocessing.decoding.process import DecoderPool
from preprocessing.files import atomic_write, sha256_of
from preprocessing.recorders import start_time
from preprocessing.terminal import first_line, printable


@dataclass(frozen=True)
class Job:
    """What all workers of a run are told.

    Attributes:
        threads: decoding processes of a worker, and threads that run the model if it is on the CPU.
    """

    folder: Path
    token: str
    model_hash: str
    options: Options
    view: View
    embeddings: bool
    device: str
    threads: int


@dataclass
class Done:
    """What became of a part."""

    tagged: int = 0
    failed: int = 0
    seconds: float = 0.0  # of audio
    messages: list[str] = field(default_factory=list)  # one line for each failure or sound that is missing
    misplaced: int = 0
    shards: list[str] = field(default_factory=list)


@dataclass
class _Item:
    """One recording. `local` gives a path on this machine while it is read."""

    name: str
    local: Callable[[], Any]
    recorded: datetime | None = None


class Worker:
    """Tags parts and writes their tables. A part that is done is left alone, so a call may be repeated at any time."""

    def __init__(self, job: Job) -> None:
        """Raises ValueError if this machine does not see the run's folder, or sees another tagger there."""
        self.job, self.folder = job, Folder(job.folder)
        if not self.folder.belongs_to(job.token):
            raise ValueError(f"{job.folder}: is not seen by the node {os.uname().nodename}; use a shared folder for -o")
        if sha256_of(job.folder / TAGGER) != job.model_hash:
            raise ValueError(f"{job.folder / TAGGER}: is not this run's tagger")
        self.tagger = Tagger(job.folder / TAGGER, job.device, job.threads)
        self.decoders = DecoderPool(job.threads)

    def outcome(self, number: int) -> dict[str, Any]:
        """What became of a part, in plain types: the fields of `Done`, or "lost" and why it could not be written."""
        try:
            return asdict(self.part(number))
        except Exception as error:  # a full disk, a folder that is gone: the next round tries it again
            return {"lost": f"{self.job.folder}: part {number} is lost ({type(error).__name__}: {first_line(error)})"}

    def part(self, number: int) -> Done:
        """Tag the part with this number of the plan, and write it."""
        part = f"part-{self.job.token}-{number:07d}"
        if self.folder.marker(part).exists():
            return Done()
        inputs, done = self.folder.planned(number), Done()
        embeddings = _Embeddings(self.folder.table(EMBEDDINGS, part)) if self.job.embeddings else nullcontext()
        failures: list[dict[str, str]] = []
        with ExitStack() as stack, embeddings as table:
            items: Iterator[_Item] = (item for one in inputs for item in self._items(one, stack, failures, done))
            records = self._records(items, failures, done, table)
            FORMATS["parquet"].write(
                self.folder.table(EVENTS if self.job.view.timeline else TAGS, part), records, self.job.view
            )
        if failures:
            _write_failures(self.folder.table(FAILURES, part), failures)
        done.failed = len(failures)
        done.messages += [failure["error"] for failure in failures]
        about = {"tagged": done.tagged, "failed": done.failed, "seconds": done.seconds, "shards": done.shards}
        return done if self.folder.commit(part, self.job.token, about) else Done()

    def close(self) -> None:
        self.decoders.close()

    def _records(
        self, items: Iterator[_Item], failures: list[dict[str, str]], done: Done, embeddings: _Embeddings | None
    ) -> Iterator[Record]:
        given: list[_Item] = []  # begun and not answered yet; answers come in order

        def kept() -> Iterator[Any]:
            for item in items:
                given.append(item)
                yield item

        for outcome in self.tagger.tag_all(kept(), self.job.options, decode=self._decode):
            item = given.pop(0)
            if isinstance(outcome, Failure):
                failures.append({"file": outcome.source, "error": outcome.message})
                continue
            done.tagged += 1
            done.seconds += outcome.duration
            if outcome.note is not None and outcome.note.misplaced:
                done.misplaced += 1
                done.messages.append(f"{outcome.source}: {outcome.note.text}")
            if embeddings is not None and outcome.embeddings is not None:
                embeddings.add(outcome.source, outcome.starts, outcome.embeddings)
            recorded = item.recorded and item.recorded.isoformat()
            yield {**outcome.to_dict(self.job.options.top), "recorded": recorded}

    def _decode(
        self, item: _Item, seconds: float, rate: int, channel: str | int, on_note: Callable[[Note], None]
    ) -> Iterator[np.ndarray]:
        try:
            opened = item.local()
        except Exception as error:  # a remote file system's own
            raise AudioError(f"{printable(item.name)}: cannot be read: {first_line(error)}") from error
        with opened as path:
            try:
                yield from self.decoders.iter_audio(path, seconds, rate, channel, on_note)
                item.recorded = start_time(path)
            except AudioError as error:
                raise AudioError(str(error).replace(printable(path), printable(item.name))) from error

    def _items(self, one: Input, stack: ExitStack, failures: list[dict[str, str]], done: Done) -> Iterator[_Item]:
        if one.kind == "file":
            remote = is_remote(one.name)
            yield _Item(one.name, (lambda: _downloaded(one.name)) if remote else (lambda: nullcontext(one.name)))
            return
        done.shards.append(one.name)
        try:
            path = stack.enter_context(_downloaded(one.name)) if is_remote(one.name) else one.name
            yield from self._members(one, Path(path), failures)
        except Exception as error:  # OSError of a damaged shard; a remote file system's own
            failures.append({"file": one.name, "error": f"{printable(one.name)}: {first_line(error)}"})

    def _members(self, one: Input, path: Path, failures: list[dict[str, str]]) -> Iterator[_Item]:
        found: Iterator[Member | Row] = tar_members(path, _is_audio) if one.kind == "tar" else table_rows(path)
        for member in found:
            name = f"{one.name}/{member.name if isinstance(member, Member) else member.clip}"
            problem, content = member.problem, member.audio
            if content is not None and callable(content):
                try:  # rows are read in their order
                    content = content()
                    problem = "has no audio"
                except OSError as error:
                    content, problem = None, first_line(error)
            if content is None:
                failures.append({"file": name, "error": f"{printable(name)}: {problem}"})
            else:
                yield _Item(name, lambda name=name, content=content: _unpacked(name, content))  # type: ignore[misc]


def _is_audio(name: str) -> bool:
    return Path(name).suffix.lower() in AUDIO_SUFFIXES and not Path(name).name.startswith(".")


@contextmanager
def _downloaded(name: str) -> Iterator[str]:
    """A remote file, here while it is needed."""
    with _place(name) as path:
        with open_input(name) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        yield str(path)


@contextmanager
def _unpacked(name: str, content: Slice | bytes) -> Iterator[str]:
    """A file out of a shard, on disk: decoders are other processes."""
    with _place(name) as path:
        try:
            path.write_bytes(content if isinstance(content, bytes) else content.read())
        except OSError as error:
            raise AudioError(f"{printable(name)}: {first_line(error)}") from error
        yield str(path)


@contextmanager
def _place(name: str) -> Iterator[Path]:
    """Where to put a file called `name`: its own last part, which may tell when it was recorded, in a new folder."""
    last = "".join(char if char.isalnum() or char in "._+-$ " else "_" for char in name.rpartition("/")[2])[-100:]
    with tempfile.TemporaryDirectory(prefix="dcls-tag-") as folder:
        yield Path(folder) / (last.lstrip(".") or "recording")


class _Embeddings:
    """A Parquet file of a row a window: file, start in s, embedding (D,) float32. Whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, ExitStack()
        self._writer: Any = None

    def __enter__(self) -> _Embeddings:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, file: str, starts: np.ndarray, embeddings: np.ndarray) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        values = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), embeddings.shape[1])
        table = pa.table({"file": pa.array([file] * len(starts), pa.string()), "start": starts, "embedding": values})
        if self._writer is None:
            unfinished = self._stack.enter_context(atomic_write(self._path))
            self._writer = self._stack.enter_context(pq.ParquetWriter(unfinished, table.schema))
        self._writer.write_table(table)


def _write_failures(path: Path, failures: Sequence[dict[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("file", pa.string()), ("error", pa.string())])
    with atomic_write(path) as unfinished:
        pq.write_table(pa.Table.from_pylist(list(failures), schema), unfinished)
