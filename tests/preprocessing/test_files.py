"""Files are written whole or not at all, and never through a link that somebody else put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preprocessing.files import atomic_write, no_links

NAMES = ["tags.csv", "n" * 255, "ü" * 127, "\udcff.txt"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_file_appears_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new folder" / name
    with atomic_write(path) as unfinished:
        assert unfinished.parent == path.parent
        unfinished.write_text("first")
        assert not path.exists()
    with atomic_write(path) as unfinished:
        unfinished.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert [file.name for file in path.parent.iterdir()] == [name]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("before")

    def write() -> None:
        with atomic_write(tmp_path / "x") as unfinished:
            unfinished.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert (tmp_path / "x").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_in_the_way_is_replaced_and_its_target_stays(tmp_path: Path, dangling: bool) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "shared"
    folder.mkdir()
    if not dangling:
        victim.write_text("precious")
    with atomic_write(folder / "x") as unfinished:
        name = unfinished.name
    for link in (name, "x"):
        (folder / link).unlink(missing_ok=True)
        (folder / link).symlink_to(victim)
    with atomic_write(folder / "x") as unfinished:
        unfinished.write_text("mine")
    assert (folder / "x").read_text() == "mine"
    assert not (folder / "x").is_symlink()
    assert victim.exists() != dangling
    assert dangling or victim.read_text() == "precious"
    assert [file.name for file in folder.iterdir()] == ["x"]


def test_what_a_kill_left_is_replaced(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "x") as unfinished:
        name = unfinished.name
    (tmp_path / name).write_text("half of an earlier run, longer than the whole")
    with atomic_write(tmp_path / "x") as unfinished:
        assert unfinished.read_text() == ""
        unfinished.write_text("whole")
    assert (tmp_path / "x").read_text() == "whole"


def test_a_file_that_was_swapped_meanwhile_is_not_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")

    def write() -> None:
        with atomic_write(tmp_path / "x") as unfinished:
            unfinished.unlink()
            unfinished.symlink_to(tmp_path / "theirs")

    with pytest.raises(FileExistsError, match="another process"):
        write()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("mode", ["rb", "wb", "ab", "r+b"])
def test_no_links_are_opened(tmp_path: Path, mode: str) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError), open(tmp_path / "link", mode, opener=no_links):
        pass
    assert (tmp_path / "file").read_text() == "content"
    with open(tmp_path / "file", mode, opener=no_links):
        pass
