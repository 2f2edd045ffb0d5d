"""Parquet: the rows of the CSV."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from audioset_dcls.tagging.writers.formats import COLUMNS, Format, Record, rows

_CHUNK = 10_000  # rows


def _save(path: Path, records: Iterable[Record], timeline: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"start": pa.float64(), "end": pa.float64(), "score": pa.float32(), "mean": pa.float32()}
    types["implied"] = pa.bool_()
    schema = pa.schema([(column, types.get(column, pa.string())) for column in COLUMNS])
    remaining = chain.from_iterable(rows(record, timeline) for record in records)
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(remaining, _CHUNK)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))


PARQUET = Format(".parquet", save=_save, for_programs=True)
