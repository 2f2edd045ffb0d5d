"""The nearest embeddings: with the usearch index beside a store, or by comparing all.

The index is made from the store: it is caught up after windows were added or removed, and made anew if it is missing or
not the one that was written last. Until then all embeddings are compared, which finds the same, only slower.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from audioset_dcls.store.database import Database, StoreError
from preprocessing.files import atomic_write

SUFFIX = ".usearch"
_BATCH = 8192  # embeddings read at once
_SAMPLE = 65_536  # bytes at the start and at the end that tell one index from another
_KEY = "usearch"  # in facts: which windows the index holds
_DIGITS = 5  # of a cosine: how many rows are compared at once shows in the seventh
# candidates that usearch keeps
_ADDING = 64  # 128 is twice as slow
_SEARCHING = 256


def to_bytes(embedding: np.ndarray) -> bytes:
    """As it is stored: (D,) -> little-endian float16. Cosines change by less than 1e-4."""
    return embedding.astype("<f2").tobytes()


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """(..., D) float32 of length 1; zeros stay zeros."""
    values = np.asarray(embeddings, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def read_embeddings(
    database: Database, where: str = "", arguments: Any = ()
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids (N,) int64, embeddings (N, D) float16) of the windows, in batches, by id. Raises StoreError.

    where: an SQL condition with its leading WHERE.
    """
    size = 2 * database.facts.embedding_size
    rows = database.query(f"SELECT id, embedding FROM windows {where} ORDER BY id", arguments)
    while batch := [row for _, row in zip(range(_BATCH), rows, strict=False)]:
        content = b"".join(embedding for _, embedding in batch)
        if len(content) != size * len(batch):
            raise StoreError(f"{database.path}: is damaged (embeddings of other sizes); make it again with dcls-index")
        values = np.frombuffer(content, "<f2").reshape(len(batch), -1)
        yield np.fromiter((number for number, _ in batch), np.int64, len(batch)), values


def nearest(database: Database, query: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, cosines) of the `count` windows whose embeddings have the highest cosine with `query` (D,), best first."""
    index = _open(database)
    if index is None:
        return _compare(database, query, count)
    found = index.search(normalized(query), min(count, len(index))).keys
    # usearch computes in float16
    return _compare(
        database, query, count, "WHERE id IN (SELECT value FROM json_each(?))", [json.dumps(found.tolist())]
    )


def is_caught_up(database: Database) -> bool:
    """Whether the usearch index holds the store's windows, as far as sizes and a sample of its bytes tell."""
    written = _written(database)
    return written is not None and written["fresh"] and written["sample"] == _sample(_path(database))


def mark_as_lagging(database: Database) -> None:
    """Within the transaction that adds or removes windows: the index no longer holds what the store does."""
    written = _written(database)
    if written is not None and written["fresh"]:
        database.write("UPDATE facts SET value = ? WHERE key = ?", [(json.dumps({**written, "fresh": False}), _KEY)])


def catch_up(database: Database, threads: int = 1, on_added: Callable[[int], None] = lambda count: None) -> None:
    """Bring the usearch index to what the store holds; it is written whole, or stays as it was.

    Takes some 0.9 kB of memory a window. Raises StoreError, and OSError if it cannot be written.
    """
    from usearch.index import Index

    if is_caught_up(database):
        return
    path, written = _path(database), _written(database)
    index: Any = Index(
        ndim=database.facts.embedding_size,
        metric="cos",
        dtype="f16",
        expansion_add=_ADDING,
        expansion_search=_SEARCHING,
    )
    if written is not None and written["sample"] == _sample(path):
        index.load(str(path))
        index.expansion_add = _ADDING  # it is not in the file
    wanted = np.fromiter((number for (number,) in database.query("SELECT id FROM windows ORDER BY id")), np.int64)
    held = np.sort(np.asarray(index.keys).astype(np.int64)) if len(index) else np.empty(0, np.int64)
    gone = np.setdiff1d(held, wanted, assume_unique=True)
    if len(gone):
        index.remove(gone.astype(np.uint64))
    last = int(held[-1]) if len(held) else 0  # ids only ever grow
    for ids, embeddings in read_embeddings(database, "WHERE id > ?", [last]):
        index.add(ids.astype(np.uint64), normalized(embeddings), threads=threads)
        on_added(len(ids))
    with atomic_write(path) as unfinished:
        index.save(str(unfinished))
    row = (_KEY, json.dumps({"fresh": True, "sample": _sample(path)}))
    with database.transaction():
        database.write("INSERT OR REPLACE INTO facts VALUES (?, ?)", [row])


def _open(database: Database) -> Any:
    """The index, read from the disk as it is needed; None if it lags, is damaged, or usearch is not installed."""
    if not is_caught_up(database):
        return None
    try:
        from usearch.index import Index

        index: Any = Index.restore(str(_path(database)), view=True)
    except (ImportError, RuntimeError, ValueError):
        return None
    if index is None or index.ndim != database.facts.embedding_size:
        return None
    index.expansion_search = _SEARCHING
    return index


def _compare(
    database: Database, query: np.ndarray, count: int, where: str = "", arguments: Any = ()
) -> tuple[np.ndarray, np.ndarray]:
    best_ids, best = np.empty(0, np.int64), np.empty(0, np.float32)
    direction = normalized(query)
    for ids, embeddings in read_embeddings(database, where, arguments):
        cosines = (normalized(embeddings) @ direction).round(_DIGITS)
        best_ids, best = np.concatenate([best_ids, ids]), np.concatenate([best, cosines])
        order = np.argsort(-best, kind="stable")[:count]
        best_ids, best = best_ids[order], best[order]
    return best_ids, best


def _written(database: Database) -> dict[str, Any] | None:
    """What is known of the index that was written last."""
    text = database.value("SELECT value FROM facts WHERE key = ?", [_KEY])
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"fresh", "sample"} <= found.keys() else None


def _sample(path: Path) -> str | None:
    """The size and a hash of the start and the end of a file; None if it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.sha256(file.read(_SAMPLE))
            file.seek(max(size - _SAMPLE, 0))
            digest.update(file.read(_SAMPLE))
    except OSError:
        return None
    return f"{size} {digest.hexdigest()}"


def _path(database: Database) -> Path:
    return database.path.with_name(database.path.name + SUFFIX)
