"""The SQLite file of a store: what is in it, and how it is opened, read and written.

SQLite is the only truth: the usearch index beside it (`vectors.py`) is made from it and can be thrown away.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing import checks
from preprocessing.files import lock
from preprocessing.terminal import first_line

FORMAT = 1
SCORE_UNIT = (
    10_000  # scores are kept as whole ten-thousandths: two bytes each, and four digits are what dcls-tag writes
)
LOWEST_SCORE = 0.01  # lower ones are not kept: of 527 classes about eleven are above it
_WIDEST_EMBEDDING = 65_536
_WAIT = 30.0  # s for another process to end its transaction
_SCHEMA = (
    # what all rows depend on: the model, its labels, window and hop
    "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # size and changed (ns) tell whether the file is still the one that was read; content is its SHA-256
    """CREATE TABLE recordings (
        id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
        changed INTEGER NOT NULL, content TEXT NOT NULL UNIQUE, duration REAL NOT NULL)""",
    # seconds; embedding is little-endian float16
    """CREATE TABLE windows (
        id INTEGER PRIMARY KEY AUTOINCREMENT, recording INTEGER NOT NULL REFERENCES recordings ON DELETE CASCADE,
        start REAL NOT NULL, "end" REAL NOT NULL, embedding BLOB NOT NULL)""",
    "CREATE INDEX windows_of_recordings ON windows (recording)",
    # those of at least LOWEST_SCORE, in ten-thousandths; class is an index into the labels
    """CREATE TABLE scores (
        "window" INTEGER NOT NULL REFERENCES windows ON DELETE CASCADE, class INTEGER NOT NULL, score INTEGER NOT NULL,
        PRIMARY KEY ("window", class)) WITHOUT ROWID""",
    "CREATE INDEX scores_of_classes ON scores (class, score)",
    # of a person, to "is this class in that part of that recording": they outlive the rows above
    """CREATE TABLE answers (
        content TEXT NOT NULL, start REAL NOT NULL, "end" REAL NOT NULL, label TEXT NOT NULL, answer TEXT NOT NULL,
        score REAL NOT NULL, answered TEXT NOT NULL, PRIMARY KEY (content, start, "end", label)) WITHOUT ROWID""",
)
_MADE_BY_SQLITE = {"CREATE TABLE sqlite_sequence(name,seq)"}  # for AUTOINCREMENT


class StoreError(Exception):
    """A store that cannot be used. The message is one line: the file, what is wrong, what to do."""


@dataclass(frozen=True)
class Facts:
    """What all rows of a store depend on.

    Attributes:
        model: SHA-256 of the .onnx file. model_name: what it was called.
        window, hop: seconds.
        labels: display names, in the order of the scores' classes.
        embedding_size: values of an embedding.
    """

    model: str
    model_name: str
    window: float
    hop: float
    labels: tuple[str, ...]
    embedding_size: int


class Database:
    """An open store. One thread at a time.

    path: of the SQLite file. facts: of a store to make where there is none; those of an existing one must be the same.
    writable: False opens it for reading alone.

    Raises StoreError for a file that is missing (without `facts`), damaged, of other software, or of other facts.
    """

    def __init__(self, path: str | Path, writable: bool = False, facts: Facts | None = None) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise StoreError(f"{self.path}: is a folder, not a store")
        if not self.path.exists():
            if facts is None:
                raise StoreError(f"{self.path}: no such store; make it with dcls-index RECORDINGS -o {self.path}")
            writable = True
        mode = "ro" if not writable else "rwc" if facts else "rw"
        try:
            self._connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=_WAIT,
                isolation_level=None,  # transactions begin where `transaction` says
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        try:
            # file names need not be UTF-8
            self._connection.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
            self._run("PRAGMA trusted_schema = OFF")
            self._run("PRAGMA foreign_keys = ON")
            if facts is not None:
                self._create(facts)
            self._check_schema()
            self.facts = self._read_facts()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def query(self, sql: str, arguments: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows, as they are read. Raises StoreError."""
        try:
            yield from self._connection.execute(sql, arguments)
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def value(self, sql: str, arguments: Sequence[Any] = ()) -> Any:
        """The first value of the first row; None if there is no row. Raises StoreError."""
        return next(self.query(sql, arguments), (None,))[0]

    def write(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement, for each of the rows, within a `transaction`. Raises StoreError."""
        try:
            self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def insert(self, sql: str, row: Sequence[Any]) -> int:
        """Insert a row, within a `transaction`; its id. Raises StoreError."""
        try:
            return int(self._connection.execute(sql, row).lastrowid or 0)
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside is on the disk at its end, or nothing of it."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise

    def check_model(self, sha256: str, name: str) -> None:
        """Raises StoreError where the embeddings are of another model than the one with this SHA-256."""
        facts = self.facts
        if sha256 != facts.model:
            raise StoreError(
                f"{self.path}: holds embeddings of another model ({facts.model_name}, SHA-256 {facts.model[:12]}) than "
                f"{name} ({sha256[:12]}); give that one with --model, or another store"
            )

    def _create(self, facts: Facts) -> None:
        with self.transaction():
            if self.value("SELECT count(*) FROM sqlite_master"):
                return
            for statement in _SCHEMA:
                self._run(statement)
            values = {**vars(facts), "format": FORMAT}
            rows = [(key, json.dumps(value)) for key, value in values.items()]
            self.write("INSERT INTO facts VALUES (?, ?)", rows)

    def _check_schema(self) -> None:
        """Triggers and views of strangers run when a table is used: nothing but our own tables may be in the file."""
        found = {sql for (sql,) in self.query("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        if found != {*_SCHEMA, *_MADE_BY_SQLITE}:
            raise StoreError(f"{self.path}: is no store of this version of dcls-index; make a new one")

    def _read_facts(self) -> Facts:
        try:
            found = {key: checks.parse_json(value, str(key)) for key, value in self.query("SELECT * FROM facts")}
            checks.integer(found.pop("format", None), "format", FORMAT, FORMAT)
            window = checks.number(found.get("window"), "window", 0.1, 3600.0)
            if not isinstance(found.get("model"), str) or not isinstance(found.get("model_name"), str):
                raise ValueError("names no model")
            return Facts(
                model=found["model"],
                model_name=found["model_name"],
                window=window,
                hop=checks.number(found.get("hop"), "hop", 0.1, window),
                labels=checks.labels(found.get("labels")),
                embedding_size=checks.integer(found.get("embedding_size"), "embedding_size", 1, _WIDEST_EMBEDDING),
            )
        except (TypeError, ValueError) as error:
            raise StoreError(f"{self.path}: is damaged ({error}); make it again with dcls-index") from None

    def _run(self, sql: str) -> None:
        try:
            self._connection.execute(sql).fetchall()
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def _trouble(self, error: sqlite3.Error) -> StoreError:
        reason = first_line(error)
        if "locked" in reason:
            return StoreError(f"{self.path}: another process writes to it; try again")
        if isinstance(error, sqlite3.OperationalError):  # the disk is full, the file may not be written, ...
            return StoreError(f"{self.path}: cannot be read or written ({reason})")
        return StoreError(f"{self.path}: is damaged or no store ({reason}); make it again with dcls-index")


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Keep a second dcls-index out of a store, by a lock on an empty file beside it. Raises StoreError, OSError."""
    if path.is_dir():
        raise StoreError(f"{path}: is a folder, not a store")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.lock")
    with beside.open("ab") as file:
        if not lock(file):
            raise StoreError(f"{path}: another dcls-index writes to it; wait for it or choose another -o")
        yield


def stored_path(path: str) -> bytes:
    """A path as it is given to SQLite, in SQL as `CAST(? AS TEXT)`: the bytes that the file system has."""
    return os.fsencode(path)
