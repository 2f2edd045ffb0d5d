"""The engine of the fast tests: real workers, one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from audioset_dcls.cluster.worker import Job, Worker


class Serial:
    """`at_part` is called before each part, and may raise; `run` then ends, as if a driver had died."""

    workers, threads, device = 1, 1, "cpu"

    def __init__(self, at_part: Callable[[Worker, int], None] = lambda worker, number: None) -> None:
        self.at_part = at_part
        self.parts: list[int] = []

    def __enter__(self) -> Serial:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def run(self, job: Job, parts: Sequence[int]) -> Iterator[Iterator[dict[str, Any]]]:
        worker = Worker(job)
        try:
            yield self._done(worker, parts)
        finally:
            worker.close()

    def _done(self, worker: Worker, parts: Sequence[int]) -> Iterator[dict[str, Any]]:
        for number in parts:
            self.at_part(worker, number)
            self.parts.append(number)
            yield worker.outcome(number)


def table(folder: Path) -> pa.Table:
    """All rows below a folder, or of a file, in an order of their own."""
    read = pq.read_table(folder) if folder.is_file() else pyarrow.dataset.dataset(folder, format="parquet").to_table()
    return read.sort_by([(name, "ascending") for name in read.column_names if name != "embedding"])


def as_bytes(rows: pa.Table) -> bytes:
    """The table as one Arrow stream, whatever chunks it was read in."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())
    return sink.getvalue().to_pybytes()
