"""The journal keeps what is done and nothing else."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from audioset_dcls.tagging.journal import NAME, FolderRemovedError, Journal, JournalError, file_state

SETTINGS: dict[str, Any] = {"model": "abc", "window": 10.0}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in ("a.wav", "b.wav", "c.wav")]
    for path in paths:
        path.write_bytes(b"sound")
    return [str(path) for path in paths]


def filled(folder: Path, files: list[str]) -> None:
    journal = Journal(folder, SETTINGS)
    for file in files:
        journal.add(file, {"file": file}, file_state(file))
    journal.close()


def test_records_come_back_in_the_order_asked_for(tmp_path: Path, files: list[str]) -> None:
    filled(tmp_path, files)
    journal = Journal(tmp_path, SETTINGS)
    assert len(journal) == 3
    assert [record["file"] for record in journal.records([files[2], "unknown", files[0]])] == [files[2], files[0]]
    assert files[1] in journal
    journal.close(delete=True)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_cut_by_a_kill_is_dropped(cut: int, tmp_path: Path, files: list[str]) -> None:
    filled(tmp_path, files)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-cut])
    journal = Journal(tmp_path, SETTINGS)
    assert [file in journal for file in files] == [True, True, False]
    journal.add(files[2], {"file": "again"}, file_state(files[2]))
    journal.close()
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()[1:]] == files


def test_other_settings_start_over(tmp_path: Path, files: list[str]) -> None:
    filled(tmp_path, files)
    journal = Journal(tmp_path, SETTINGS | {"window": 5.0})
    assert journal.started_over == ["window"]
    assert len(journal) == 0
    journal.close()


def test_a_journal_that_is_none_starts_over(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / NAME).write_bytes(b"\x00\xff no journal\n")
    journal = Journal(tmp_path, SETTINGS)
    assert len(journal) == 0
    journal.add(files[0], {}, file_state(files[0]))
    journal.close()
    with closing(Journal(tmp_path, SETTINGS)) as journal:
        assert files[0] in journal


def test_no_resume_starts_over(tmp_path: Path, files: list[str]) -> None:
    filled(tmp_path, files)
    with closing(Journal(tmp_path, SETTINGS, resume=False)) as journal:
        assert len(journal) == 0


def test_a_changed_file_is_tagged_again(tmp_path: Path, files: list[str]) -> None:
    filled(tmp_path, files)
    Path(files[0]).write_bytes(b"another sound")
    Path(files[1]).unlink()
    journal = Journal(tmp_path, SETTINGS)
    assert [file in journal for file in files] == [False, False, True]


@pytest.mark.parametrize("same_folder", [True, False], ids=["another card in the reader", "another folder"])
def test_recordings_that_look_alike_from_outside(
    same_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cards whose files agree in name, size and time of change. Written in place, the file number agrees, too."""
    card = tmp_path / "card"
    other = card if same_folder else tmp_path / "other"
    for folder in {card, other}:
        folder.mkdir()
        (folder / "0001.wav").write_bytes(b"RIFF" + bytes(1000) + b"rooster")
        os.utime(folder / "0001.wav", (1e9, 1e9))
    monkeypatch.chdir(card)
    filled(tmp_path, ["0001.wav"])
    with closing(Journal(tmp_path, SETTINGS)) as journal:
        assert "0001.wav" in journal
    monkeypatch.chdir(other)
    (other / "0001.wav").write_bytes(b"RIFF" + bytes(1000) + b"a horn.")
    os.utime("0001.wav", (1e9, 1e9))
    with closing(Journal(tmp_path, SETTINGS)) as journal:
        assert "0001.wav" not in journal


def test_a_file_that_is_written_to_while_it_is_read(tmp_path: Path, files: list[str]) -> None:
    """Its record counts in the run that made it, and in none after it, although the file does not change again."""
    journal = Journal(tmp_path, SETTINGS)
    before = file_state(files[0])
    Path(files[0]).write_bytes(b"sound and more sound")
    assert not journal.add(files[0], {"file": "half"}, before)
    assert [record["file"] for record in journal.records(files)] == ["half"]
    journal.close()
    with closing(Journal(tmp_path, SETTINGS)) as journal:
        assert files[0] not in journal


def test_a_file_that_changes_later_keeps_its_record_in_this_run(tmp_path: Path, files: list[str]) -> None:
    journal = Journal(tmp_path, SETTINGS)
    assert journal.add(files[0], {"file": "a"}, file_state(files[0]))
    Path(files[0]).unlink()
    assert [record["file"] for record in journal.records(files)] == ["a"]


def test_a_journal_that_was_removed(tmp_path: Path, files: list[str]) -> None:
    for replaced in (False, True):
        journal = Journal(tmp_path, SETTINGS)
        journal.path.unlink()
        if replaced:
            journal.path.touch()
        with pytest.raises(FolderRemovedError, match="was removed"):
            journal.add(files[0], {}, file_state(files[0]))
        journal.close()


def test_entries_that_are_none_are_dropped(tmp_path: Path, files: list[str]) -> None:
    filled(tmp_path, files)
    path = tmp_path / NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"path": "x"}\n', *lines[2:]]))
    with closing(Journal(tmp_path, SETTINGS)) as journal:
        assert [file in journal for file in files] == [True, False, False]


def test_stdin_is_never_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SETTINGS)
    journal.add("-", {}, None)
    assert "-" in journal
    journal.close()
    with closing(Journal(tmp_path, SETTINGS)) as journal:
        assert "-" not in journal


def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SETTINGS)
    with pytest.raises(JournalError, match="another dcls-tag"):
        Journal(tmp_path, SETTINGS)
    journal.close()
    Journal(tmp_path, SETTINGS).close()
