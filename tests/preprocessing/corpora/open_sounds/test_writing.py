from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from preprocessing.corpora.open_sounds import writing
from preprocessing.corpora.open_sounds.git import GoneError
from preprocessing.corpora.open_sounds.lists import OpenSoundsError
from preprocessing.corpora.open_sounds.writing import Job, Report, Sound, write_files


def sound(name: str, make: Callable[[Path], np.ndarray]) -> Sound:
    return Sound(name, name, ("Bell",), np.zeros(527), make)


def ring(root: Path) -> np.ndarray:
    return np.full(4_000, 0.5, np.float32)


def damaged(root: Path) -> np.ndarray:
    raise ValueError("is damaged")


def stopped(root: Path) -> np.ndarray:
    raise KeyboardInterrupt


@contextmanager
def folder() -> Iterator[Path]:
    yield Path()


def run(tmp_path: Path, jobs: list[Job], names: tuple[str, ...] = ("a",)) -> Report:
    files = {name: tmp_path / f"{name}.h5" for name in names}
    return write_files(files, dict.fromkeys(names, "open-sounds test"), jobs, lambda job, size: None)


def test_what_is_damaged_counts_once_however_often_the_run_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BATCH", 1)
    first = [sound("one", ring), sound("two", damaged)]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, [Job("job", folder, {"a": [*first, sound("three", stopped)]})])
    report = run(tmp_path, [Job("job", folder, {"a": [*first, sound("three", ring)]})])
    assert report == Report({"a": 2}, ["two: is damaged"], [])
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["audio_name"][:].tolist() == [b"one", b"three"]
        assert file.attrs["left_out"] == 1
        assert file.attrs["samples"].tolist() == [4_000, 4_000]


def test_a_missing_job_keeps_those_files_open_that_it_belongs_to(tmp_path: Path) -> None:
    @contextmanager
    def missing() -> Iterator[Path]:
        raise OpenSoundsError("cannot be had")
        yield Path()

    to_b = {"b": [sound("two", ring)]}
    present = Job("present", folder, {"a": [sound("one", ring)]} | to_b)
    report = run(tmp_path, [present, Job("missing", missing, {"b": [sound("three", ring)]})], ("a", "b"))
    assert report == Report({"a": 1}, [], ["missing"])
    assert not (tmp_path / "b.h5").exists()
    report = run(
        tmp_path, [Job("present", folder, to_b), Job("missing", folder, {"b": [sound("three", ring)]})], ("b",)
    )
    assert report.clips == {"b": 2}


def test_a_job_that_is_gone_is_left_out_with_all_its_sounds(tmp_path: Path) -> None:
    @contextmanager
    def gone() -> Iterator[Path]:
        raise GoneError("owner/name: is gone")
        yield Path()

    lost = Job("owner/name", gone, {"a": [sound("one", ring), sound("two", ring)]})
    report = run(tmp_path, [lost, Job("present", folder, {"a": [sound("three", ring)]})])
    assert report == Report({"a": 1}, ["owner/name: is gone: 2 clips of a.h5"], [])
