"""What a user names becomes recordings: each once, in an order that never changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from audioset_dcls.tagging.recordings import find_recordings, flat_names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b/2.wav", "b/10.FLAC", "b/c/deep.mp3", "a.ogg", "notes.txt", ".hidden.wav", ".git/x.wav", "[1].wav"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def names(*inputs: str) -> list[str]:
    return [recording.name for recording in find_recordings(inputs).recordings]


def test_folders(folder: Path) -> None:
    assert names("in") == ["[1].wav", "a.ogg", "b/10.FLAC", "b/2.wav", "b/c/deep.mp3"]
    assert find_recordings(["in/b"]).recordings[0].path == "in/b/10.FLAC"


def test_globs(folder: Path) -> None:
    assert names("in/**/*.mp3") == ["deep.mp3"]
    assert names("in/*", "in/b/*.wav") == ["[1].wav", "a.ogg", "b/2.wav"]
    assert names("in/[1].wav") == ["[1].wav"]  # a file that is there, not a pattern
    assert "no audio file matches" in find_recordings(["in/*.xyz"]).problems[0]


def test_each_once_in_the_order_given(folder: Path) -> None:
    assert names("in/b/2.wav", "in/a.ogg", "in", "./in/a.ogg", str(folder / "a.ogg")) == [
        *("b/2.wav", "a.ogg", "[1].wav", "b/10.FLAC", "b/c/deep.mp3")
    ]


def test_names_are_unique_over_folders(folder: Path) -> None:
    (folder / "b" / "a.ogg").touch()
    assert names("in/a.ogg", "in/b/a.ogg") == ["a.ogg", "b/a.ogg"]


def test_named_files_are_tried_whatever_they_are_called(folder: Path) -> None:
    assert names("in/notes.txt", "missing", "-") == ["in/notes.txt", "missing", "stdin"]


def test_links_in_a_circle(folder: Path) -> None:
    (folder / "b" / "loop").symlink_to(folder)
    assert names("in") == ["[1].wav", "a.ogg", "b/10.FLAC", "b/2.wav", "b/c/deep.mp3"]


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert find_recordings([str(tmp_path)]).problems == [f"{tmp_path}: no audio files in this folder"]


def test_flat_names_are_unique(folder: Path) -> None:
    for name in ("card1/0001.wav", "card2/0001.wav", "card2/0001.WAV", "card1_0001.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    flat = flat_names(find_recordings(["in"]).recordings)
    assert flat["in/card1/0001.wav"] == "2_card1_0001.wav"
    assert flat["in/card1_0001.wav"] == "card1_0001.wav"
    assert flat["in/b/c/deep.mp3"] == "deep.mp3"
    assert len({name.casefold() for name in flat.values()}) == len(flat) == 9
