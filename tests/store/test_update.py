"""What a store holds after runs, changes of the files, kills and attempts to break it."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from audioset_dcls.store import Index, StoreError
from audioset_dcls.store.database import SCORE_UNIT, Database, one_writer
from audioset_dcls.store.update import Update, update
from audioset_dcls.store.vectors import SUFFIX, is_caught_up, read_embeddings
from audioset_dcls.tagging.tagger import Tagger
from tests.conftest import RECORDINGS, environment, write_tones
from tests.processes import wait_until
from tests.test_imports import write_tagger

COMMAND = [sys.executable, "-c", "from audioset_dcls.commands.index import main; main()"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    """A model of three classes whose embedding and scores tell how loud it is."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    write_tagger(path)
    return Tagger(path, jobs=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tones(tmp_path / "in", ["a.wav", "b.wav"])
    write_tones(tmp_path / "in" / "c", ["long.wav"], 12)
    return tmp_path / "in"


def run(path: Path, inputs: Iterable[Path], tagger: Tagger, **options: float) -> tuple[Update, str]:
    errors = io.StringIO()
    return update(path, [str(one) for one in inputs], tagger, stderr=errors, **options), errors.getvalue()  # type: ignore[arg-type]


def content(path: Path) -> list[tuple[object, ...]]:
    """All that a store holds, but for what is known of the usearch index."""
    with Database(path) as database:
        rows = [row for row in database.query("SELECT * FROM facts ORDER BY key") if row[0] != "usearch"]
        for table in ("recordings", "windows", "scores", "answers"):
            rows += database.query(f"SELECT * FROM {table}")
    return rows


def files(path: Path) -> set[str]:
    with Database(path) as database:
        return {Path(name).name for (name,) in database.query("SELECT path FROM recordings")}


def test_the_store_holds_what_the_tagger_says(tmp_path: Path) -> None:
    """Embeddings to float16, scores to four digits, times of the windows, for real sounds and the embedded tagger."""
    tagger, names = Tagger(jobs=1), ("wolf_howl.ogg", "dog_bark.ogg")
    path = tmp_path / "sounds.db"
    done, errors = run(path, [RECORDINGS / name for name in names], tagger)
    assert (done.added, done.exit_status, errors) == (2, 0, "")
    with Database(path) as database:
        at = 0
        embeddings = np.concatenate([values for _, values in read_embeddings(database)])
        for name in names:
            result = tagger(RECORDINGS / name)
            rows = list(
                database.query(
                    'SELECT windows.id, start, "end" FROM windows JOIN recordings ON recordings.id = recording '
                    "WHERE path = ? ORDER BY start",
                    [str(RECORDINGS / name)],
                )
            )
            assert [row[1] for row in rows] == pytest.approx(result.starts, abs=1e-3)
            assert rows[-1][2] == pytest.approx(result.duration, abs=1e-3)
            assert result.embeddings is not None
            assert result.timeline is not None
            np.testing.assert_array_equal(embeddings[at : at + len(rows)], result.embeddings.astype(np.float16))
            for (window, *_), scores in zip(rows, result.timeline, strict=True):
                stored = dict(database.query('SELECT class, score FROM scores WHERE "window" = ?', [window]))
                assert stored.keys() == set(np.flatnonzero(scores >= 0.01))
                for number, units in stored.items():
                    assert units / SCORE_UNIT == pytest.approx(scores[number], abs=5.01e-5)
            at += len(rows)
        assert at == len(embeddings) == done.windows


def test_adds_changes_moves_and_removes(folder: Path, tmp_path: Path, tiny: Tagger) -> None:
    path = tmp_path / "s.db"
    assert run(path, [folder], tiny)[0] == Update(added=3, windows=1 + 1 + 2)
    assert run(path, [folder], tiny)[0] == Update(unchanged=3, windows=4)
    before = content(path)
    shutil.copy(folder / "a.wav", folder / "same.wav")
    done, errors = run(path, [folder], tiny)
    assert (done.duplicates, done.exit_status) == ([str(folder / "same.wav")], 0)
    assert errors == f"dcls-index: {folder / 'same.wav'}: the same content as {folder / 'a.wav'}; not added twice\n"
    assert content(path) == before
    (folder / "a.wav").unlink()  # the other one takes its place
    done, _ = run(path, [folder], tiny)
    assert (done.moved, done.unchanged, done.removed, done.windows) == (1, 2, 0, 4)
    assert files(path) == {"same.wav", "b.wav", "long.wav"}
    write_tones(folder, ["x.wav", "y.wav", "b.wav"], 2)
    (folder / "x.wav").unlink()
    (folder / "c" / "long.wav").unlink()
    os.utime(folder / "same.wav", ns=(0, 0))
    done, errors = run(path, [folder], tiny)
    assert (done.added, done.changed, done.removed, done.unchanged, done.windows) == (1, 1, 1, 1, 3)
    assert errors == ""
    with Database(path) as database:  # nothing is left of what was removed, in the usearch index neither
        assert is_caught_up(database)
        assert database.value("SELECT count(*) FROM scores") == 3 * 3
    assert [Path(hit.file).name for hit in Index(path).like(np.ones(3, np.float32))] == ["b.wav", "same.wav", "y.wav"]


def test_what_cannot_be_read_keeps_its_windows(folder: Path, tmp_path: Path, tiny: Tagger) -> None:
    path = tmp_path / "s.db"
    run(path, [folder], tiny)
    before = content(path)
    (folder / "a.wav").write_bytes(b"broken")
    done, errors = run(path, [folder], tiny)
    assert (done.exit_status, done.unchanged, errors.count("\n")) == (1, 2, 1)
    assert str(folder / "a.wav") in errors
    assert content(path) == before
    # a disk that is not mounted: an empty folder, or none
    shutil.rmtree(folder)
    done, errors = run(path, [folder], tiny)
    assert (done.exit_status, done.removed, errors.count("\n")) == (1, 0, 1)
    folder.mkdir()
    done, errors = run(path, [folder], tiny)
    assert (done.exit_status, done.removed, errors.count("\n")) == (1, 0, 1)
    assert content(path) == before


def test_names_that_are_no_text(tmp_path: Path, tiny: Tagger) -> None:
    (tmp_path / "in").mkdir()
    (written,) = write_tones(tmp_path, ["a.wav"])
    name = os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff\n.wav")
    written.rename(name)
    assert run(tmp_path / "s.db", [tmp_path / "in"], tiny)[0].added == 1
    assert run(tmp_path / "s.db", [tmp_path / "in"], tiny)[0].unchanged == 1
    assert [hit.file for hit in Index(tmp_path / "s.db").label("dog")] == [name]


def test_kill_and_the_same_command(tmp_path: Path, tiny: Tagger) -> None:
    """kill -9 in the middle, then the same command: the same rows as of a run without a kill."""
    paths = write_tones(tmp_path / "in", [f"{number:02}.wav" for number in range(40)])
    last = paths[-1].read_bytes()
    paths[-1].unlink()
    os.mkfifo(paths[-1])  # a run cannot end before it is killed
    names = [f"in/{path.name}" for path in paths]
    arguments = [*COMMAND, *names, "-o", "s.db", "--model", str(tiny.model.path), "--jobs", "1"]
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: count(tmp_path / "s.db") > 5, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 5 < count(tmp_path / "s.db") < 40
    paths[-1].unlink()
    paths[-1].write_bytes(last)
    done = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    run(tmp_path / "once.db", [tmp_path / "in"], tiny)
    assert content(tmp_path / "s.db") == content(tmp_path / "once.db")
    with Database(tmp_path / "s.db") as database:
        assert is_caught_up(database)


def count(path: Path) -> int:
    """Recordings in a store that another process writes."""
    try:
        with Database(path) as database:
            return int(database.value("SELECT count(*) FROM recordings"))
    except StoreError:  # not there yet
        return 0


def test_a_kill_before_the_usearch_index_is_written(folder: Path, tmp_path: Path, tiny: Tagger) -> None:
    """It lags, which a search does not show, and the next run brings it up to date."""
    path = tmp_path / "s.db"
    run(path, [folder / "a.wav"], tiny)
    old = path.with_name(path.name + SUFFIX).read_bytes()
    run(path, [folder], tiny)
    whole = Index(path).like(np.ones(3, np.float32))
    index = path.with_name(path.name + SUFFIX)
    for lost in (old, old[:100], b""):
        index.write_bytes(lost)
        assert Index(path).like(np.ones(3, np.float32)) == whole
    run(path, [folder], tiny)
    with Database(path) as database:
        assert is_caught_up(database)
    assert Index(path).like(np.ones(3, np.float32)) == whole


def test_two_writers(folder: Path, tmp_path: Path, tiny: Tagger) -> None:
    path = tmp_path / "s.db"
    arguments = [*COMMAND, str(folder), "-o", str(path), "--model", str(tiny.model.path)]
    with one_writer(path):
        done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"dcls-index: {path}: another dcls-index writes to it; wait for it or choose another -o\n"
    assert not path.exists()


def test_another_model_or_other_windows(folder: Path, tmp_path: Path, tiny: Tagger) -> None:
    path = tmp_path / "s.db"
    run(path, [folder], tiny)
    before = content(path)
    with pytest.raises(StoreError, match=r"s\.db: holds embeddings of another model \(tiny\.onnx, SHA-256 \w{12}\)"):
        run(path, [folder], Tagger(jobs=1))
    with pytest.raises(StoreError, match="another model"):
        Index(path).like(folder / "a.wav")
    with pytest.raises(StoreError, match=r"has windows of 10 s every 5 s; leave out --window"):
        run(path, [folder], tiny, window=2.0)
    with pytest.raises(ValueError, match="window must be"):
        run(path, [folder], tiny, window=-1.0)
    assert content(path) == before


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "overwritten", "trigger", "labels", "embedding", "folder"])
def test_damaged_stores(damage: str, folder: Path, tmp_path: Path, tiny: Tagger) -> None:
    """One line each, and nothing of a stranger's file is run."""
    path = tmp_path / "s.db"
    run(path, [folder], tiny)
    path.with_name(path.name + SUFFIX).unlink()
    whole = path.read_bytes()
    if damage == "text":
        path.write_text("no store")
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 3])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "overwritten":
        path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        with sqlite3.connect(path) as connection:
            connection.execute(
                {
                    "trigger": "CREATE TRIGGER t AFTER INSERT ON recordings BEGIN DELETE FROM answers; END",
                    "labels": "UPDATE facts SET value = '[7]' WHERE key = 'labels'",
                    "embedding": "UPDATE windows SET embedding = x'00' WHERE id = 2",
                }[damage]
            )
        connection.close()
    with pytest.raises(StoreError, match=r"^[^\n]*s\.db: [^\n]*$"):
        Index(path).like(np.ones(3, np.float32))
    if damage not in (
        "empty",
        "embedding",
    ):  # a kill can leave an empty file, and that of one row shows when it is read
        with pytest.raises(StoreError):
            run(path, [folder], tiny)
