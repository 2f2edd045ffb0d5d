"""The folder that a run on a cluster writes to: which parts are done, and what they hold.

    tags/ or events/  a Parquet file for each part, with the rows of `dcls-tag --format parquet`
    failures/         file, error: a Parquet file for each part in which something failed
    embeddings/       file, start, embedding: if asked for
    done/             a marker for each part, written last: what has none does not count, and is removed by the next run
    plan.parquet      what this run has to do: a row group for each part
    tagger.onnx       the tagger, for nodes that do not have it
    manifest.json     settings, the tagger's SHA-256, counts

A run has a token, which stands in the manifest: what a worker of an earlier run still finishes is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from audioset_dcls.cluster.inputs import Input
from preprocessing import checks
from preprocessing.files import atomic_write, lock

MANIFEST, PLAN, TAGGER = "manifest.json", "plan.parquet", "tagger.onnx"
TAGS, EVENTS, FAILURES, EMBEDDINGS, DONE = "tags", "events", "failures", "embeddings", "done"
_TABLES = (TAGS, EVENTS, FAILURES, EMBEDDINGS)
_MARKER = ".json"


class FolderError(ValueError):
    """The folder cannot be written to in this run; one line that says what to do."""


class Folder:
    """`OUT` of `dcls-tag --ray`. `open_for_writing` is for the driver; workers write parts and markers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None

    # the driver ------------------------------------------------------------------------------------------------------

    def open_for_writing(self, settings: dict[str, Any], resume: bool) -> str:
        """Take the folder for a run with these settings, remove what an earlier one left half done; the run's token.

        Raises FolderError if another process writes there, or it holds results of other settings; OSError.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / "dcls-tag.lock").open("ab")
        if not lock(file):
            file.close()
            raise FolderError(f"{self.path}: another dcls-tag is writing there; wait for it or choose another -o")
        self._lock = file
        found = self._manifest()
        if found is None and any((self.path / name).exists() for name in (*_TABLES, DONE)):
            raise FolderError(f"{self.path}: holds results, but their {MANIFEST} is gone; choose another -o")
        theirs, ours = (found or {}).get("settings"), json.loads(json.dumps(settings))
        if found is not None and resume and theirs != ours:
            old = theirs if isinstance(theirs, dict) else {}
            different = sorted(key for key in old | ours if old.get(key) != ours.get(key))
            raise FolderError(
                f"{self.path}: holds results of another {', '.join(different)}; choose another -o, or --no-resume to "
                "begin anew"
            )
        token = secrets.token_hex(8)
        self.write_manifest({"settings": ours, "token": token, "complete": False})  # from here on, no one else commits
        if found is not None and not resume:
            for name in (*_TABLES, DONE):
                shutil.rmtree(self.path / name, ignore_errors=True)
        self.remove_unfinished()
        return token

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def remove_unfinished(self) -> None:
        """Remove tables without a marker."""
        done = set(self.done())
        for name in (*_TABLES, DONE):
            for path in (self.path / name).glob("*") if (self.path / name).is_dir() else ():
                if path.is_file() and (path.name.endswith(".unfinished") or path.stem not in done):
                    path.unlink(missing_ok=True)

    def done(self) -> Iterator[str]:
        """The names of the parts that count."""
        folder = self.path / DONE
        return (path.stem for path in sorted(folder.glob(f"*{_MARKER}"))) if folder.is_dir() else iter(())

    def markers(self) -> Iterator[dict[str, Any]]:
        """What the markers of the parts that count say."""
        for part in self.done():
            yield checks.parse_json((self.path / DONE / f"{part}{_MARKER}").read_bytes(), "marker")

    def done_names(self) -> np.ndarray:
        """Sorted uint64: hashes of the inputs in parts that count, 8 bytes an input."""
        import pyarrow.parquet as pq

        hashes = [np.empty(0, np.uint64)]
        for part in self.done():
            for name in (TAGS, EVENTS, FAILURES):
                path = self.path / name / f"{part}.parquet"
                if path.is_file():
                    files = pq.read_table(path, columns=["file"]).column("file").unique().to_pylist()
                    hashes.append(np.array([name_hash(file) for file in files], np.uint64))
        shards = [name_hash(shard) for marker in self.markers() for shard in marker.get("shards", ())]
        return np.unique(np.concatenate([*hashes, np.array(shards, np.uint64)]))

    def write_plan(self, inputs: Iterable[Input], part_size: int) -> tuple[int, int]:
        """Write down what is to be done, `part_size` recordings or one shard a part; (parts, inputs)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([("name", pa.binary()), ("kind", pa.string())])  # names of files need not be text
        parts = count = 0
        with atomic_write(self.path / PLAN) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
            for rows in _parts(inputs, part_size):
                names, kinds = [os.fsencode(one.name) for one in rows], [one.kind for one in rows]
                table = pa.table({"name": names, "kind": kinds}, schema)
                writer.write_table(table, row_group_size=len(rows))
                parts, count = parts + 1, count + len(rows)
        return parts, count

    def write_manifest(self, content: dict[str, Any]) -> None:
        with atomic_write(self.path / MANIFEST) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    # workers ---------------------------------------------------------------------------------------------------------

    def belongs_to(self, token: str) -> bool:
        """If the run with this token is the one that may write."""
        return (self._manifest() or {}).get("token") == token

    def planned(self, number: int) -> list[Input]:
        """The inputs of a part."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path / PLAN) as table:
            rows = table.read_row_group(number).to_pylist()
        return [Input(os.fsdecode(row["name"]), row["kind"]) for row in rows]

    def table(self, name: str, part: str) -> Path:
        return self.path / name / f"{part}.parquet"

    def marker(self, part: str) -> Path:
        return self.path / DONE / f"{part}{_MARKER}"

    def commit(self, part: str, token: str, about: dict[str, Any]) -> bool:
        """Make a part count, if the run with this token still may; its tables are written already."""
        if not self.belongs_to(token):
            for name in _TABLES:
                self.table(name, part).unlink(missing_ok=True)
            return False
        with atomic_write(self.marker(part)) as unfinished:
            unfinished.write_text(json.dumps(about), encoding="utf-8")
        return True

    def _manifest(self) -> dict[str, Any] | None:
        with suppress(FileNotFoundError):
            try:
                found = checks.parse_json((self.path / MANIFEST).read_bytes(), MANIFEST)
            except ValueError:
                found = {}
            return found if isinstance(found, dict) else {}
        return None


def name_hash(name: str) -> int:
    """64 bits of a name as it is displayed: among a billion inputs, two are taken for one with a chance of 3 %."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="backslashreplace"), digest_size=8).digest(), "little")


def without(inputs: Iterable[Input], done: np.ndarray) -> Iterator[Input]:
    """Those of the inputs that are not done, each once."""
    seen: set[int] = set()
    for one in inputs:
        number = name_hash(one.name)
        place = int(np.searchsorted(done, np.uint64(number)))
        if number in seen or (place < len(done) and int(done[place]) == number):
            continue
        seen.add(number)
        yield one


def _parts(inputs: Iterable[Input], size: int) -> Iterator[Sequence[Input]]:
    """In order: `size` files, or one shard."""
    files: list[Input] = []
    for one in inputs:
        if one.kind == "file":
            files.append(one)
            if len(files) < size:
                continue
        if files and (one.kind != "file" or len(files) == size):
            yield files
            files = []
        if one.kind != "file":
            yield [one]
    if files:
        yield files
