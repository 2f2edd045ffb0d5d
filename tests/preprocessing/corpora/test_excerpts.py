"""What becomes of files that are not 10 s long: clips, a segment, the start, each checked sample by sample."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from preprocessing.clips.layout import CLIP_SAMPLES
from preprocessing.clips.reader import ClipFile
from preprocessing.corpora.audioset import audioset_collection
from preprocessing.corpora.excerpts import CUT, SEGMENT, SHORTENED, first_clip, segment
from preprocessing.corpora.folder import folder_collection
from preprocessing.corpora.prepare import prepare
from tests.processes import signalled_at

ROOT = Path(__file__).parents[3]
RATE = 32_000
VIDEO = "abcdefghijk"


def write(path: Path, seconds: float) -> npt.NDArray[np.int16]:
    """A file in which sample n has the value (7 n) % 30000: every excerpt tells where it is from."""
    samples = (7 * np.arange(round(seconds * RATE)) % 30_000).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    return samples


def stored(path: Path) -> dict[str, npt.NDArray[np.int16]]:
    """Clips without padding, by name; what is padded is zero."""
    file = ClipFile(path)
    lengths = np.full(len(file), file.samples) if file.lengths is None else file.lengths
    clips = {}
    for row, (name, length) in enumerate(zip(file.audio_names(), lengths, strict=True)):
        waveform = file.waveforms([row])[0]
        assert not waveform[length:].any()
        clips[name] = waveform[:length]
    return clips


def assert_alike(clip: npt.NDArray[np.int16], expected: npt.NDArray[np.int16]) -> None:
    """16 bit -> float -> 16 bit: the file's full scale is 32768, HDF5's 32767."""
    assert len(clip) == len(expected)
    assert np.abs(clip.astype(int) - expected).max() <= 1


def test_folder_cuts_long_files_and_keeps_lengths(tmp_path: Path) -> None:
    long = write(tmp_path / "in" / "a" / "long.wav", 25)
    exact = write(tmp_path / "in" / "a" / "exact.wav", 20)
    nearly = write(tmp_path / "in" / "b" / "nearly.wav", 10.05)
    short = write(tmp_path / "in" / "b" / "short.wav", 1.5)
    made = prepare(folder_collection(tmp_path / "in"), tmp_path / "out.h5", workers=1)
    clips = stored(made.path)
    assert list(clips) == [
        *("a/exact.wav@0", "a/exact.wav@10", "a/long.wav@0", "a/long.wav@10", "a/long.wav@15"),
        *("b/nearly.wav", "b/short.wav"),
    ]
    for name, expected in {
        "a/exact.wav@10": exact[10 * RATE :],
        "a/long.wav@0": long[: 10 * RATE],
        "a/long.wav@10": long[10 * RATE : 20 * RATE],
        "a/long.wav@15": long[15 * RATE :],  # the last one ends with the file
        "b/nearly.wav": nearly[: 10 * RATE],
        "b/short.wav": short,
    }.items():
        assert_alike(clips[name], expected)
    assert (made.changes[CUT], made.changes["cut_clips"]) == (2, 5)
    np.testing.assert_array_equal(ClipFile(made.path).label_counts(), [5, 2])
    again = prepare(folder_collection(tmp_path / "in"), tmp_path / "out.h5", workers=1)
    assert again.lines() == made.lines()
    assert "cut: 2 files of over 10 s into 5 clips" in made.lines()[0]


def test_a_csv_that_lists_a_long_file_twice_has_its_clips_once(tmp_path: Path) -> None:
    write(tmp_path / "long.wav", 21)
    (tmp_path / "list.csv").write_text("file,labels\nlong.wav,a\nlong.wav,b\n")
    made = prepare(folder_collection(tmp_path / "list.csv"), tmp_path / "out.h5", workers=1)
    assert list(stored(made.path)) == ["long.wav@0", "long.wav@10", "long.wav@11"]
    assert made.left_out["duplicate"] == 1
    assert made.lines()[1] == [f"{made.path}: no clip of 1 of the 2 classes: b"]


@pytest.mark.parametrize("compression", [None, pytest.param("gzip", marks=pytest.mark.slow)])
def test_killed_within_a_long_file_it_ends_in_the_same_bytes(tmp_path: Path, compression: str | None) -> None:
    """30 clips of a file are written 16 at a time, with three calls of fsync each."""
    write(tmp_path / "in" / "a" / "1.wav", 300)
    write(tmp_path / "in" / "a" / "2.wav", 3)
    whole = prepare(folder_collection(tmp_path / "in"), tmp_path / "whole.h5", workers=1, compression=compression).path
    options = ["folder", "in", "-o", "out.h5", *(["--compress"] if compression else [])]
    for number in (4, 2):  # behind the first 16 clips, within the others
        code = (
            f"{signalled_at('fsync', number, signal.SIGKILL)}\nfrom audioset_dcls.commands.prepare import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", code, *options], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
        assert done.returncode == -signal.SIGKILL
        left_over = list((tmp_path / "out.h5.part").glob("clips-*"))
        assert len(left_over) == (number == 4)  # the next run removes it
    made = prepare(folder_collection(tmp_path / "in"), tmp_path / "out.h5", workers=1, compression=compression)
    assert made.clip_count == 31
    with h5py.File(whole) as first, h5py.File(made.path) as second:
        assert {name: str(value) for name, value in first.attrs.items()} == {
            name: str(value) for name, value in second.attrs.items()
        }
    assert made.path.read_bytes() == whole.read_bytes()


def test_a_file_that_is_damaged_behind_its_first_clips_keeps_them(tmp_path: Path) -> None:
    samples = write(tmp_path / "in" / "a" / "nan.wav", 65).astype(np.float32) / 32768
    samples[60 * RATE] = np.nan
    soundfile.write(tmp_path / "in" / "a" / "nan.wav", samples, RATE, subtype="FLOAT")
    made = prepare(folder_collection(tmp_path / "in"), tmp_path / "out.h5", workers=1)
    clips = stored(made.path)
    assert list(clips)[:3] == ["a/nan.wav@0", "a/nan.wav@10", "a/nan.wav@20"]
    for start, clip in enumerate(clips.values()):
        np.testing.assert_allclose(clip, samples[10 * start * RATE :][: 10 * RATE] * 32767, atol=1)


def audioset(tmp_path: Path, *rows: str) -> Path:
    (tmp_path / "list.csv").write_text("".join(f'{row}, "/m/09x0r"\n' for row in rows))
    return tmp_path / "list.csv"


def test_audioset_takes_the_labelled_segment_of_longer_files(tmp_path: Path) -> None:
    """Not of a file that is the segment: as its name says, or as it is no longer."""
    ids = [f"{VIDEO[:-1]}{letter}" for letter in "abcdef"]
    names = [f"Y{ids[0]}.wav", f"{ids[1]}.flac", f"{ids[2]}_30.000_40.000.wav", f"{ids[3]}.wav", f"Y{ids[4]}.wav"]
    seconds = [75, 34.5, 40, 10.4, 20]
    samples = [write(tmp_path / "in" / name, length) for name, length in zip(names, seconds, strict=True)]
    times = ["30, 40", "30, 40", "30, 40", "0, 10", "30, 40"]
    listed = audioset(tmp_path, *(f"{video}, {time}" for video, time in zip(ids[:5], times, strict=True)))
    made = prepare(audioset_collection([tmp_path / "in"], listed), tmp_path / "out.h5", workers=1)
    clips = stored(made.path)
    expected = [
        samples[0][30 * RATE : 40 * RATE],
        samples[1][30 * RATE :],  # the video ends within the segment
        samples[2][: 10 * RATE],
        samples[3][: 10 * RATE],
        samples[4][: 10 * RATE],  # ends before the segment begins: cannot be the whole video
    ]
    for video, clip in zip(ids, expected, strict=False):
        assert_alike(clips[f"Y{video}.wav"], clip)
    assert (made.changes[SEGMENT], made.changes[SHORTENED]) == (2, 2)


def test_a_list_without_times_takes_the_start_and_says_so(tmp_path: Path) -> None:
    long = write(tmp_path / f"{VIDEO}.wav", 14)
    (tmp_path / "list.csv").write_text(f"video_id,labels\n{VIDEO},['/m/09x0r']\n")
    made = prepare(audioset_collection([tmp_path / f"{VIDEO}.wav"], tmp_path / "list.csv"), tmp_path / "out.h5")
    assert_alike(stored(made.path)[f"Y{VIDEO}.wav"], long[: 10 * RATE])
    assert "shortened: 1 files of over 10 s to their first 10 s" in made.lines()[0]


@pytest.mark.parametrize(
    ("start", "end", "seconds"), [(0, 10, 30), (3, 8.5, 30), (19, 29, 30), (30, 40, 40), (5, 35, 60)]
)
def test_segments_to_the_sample(start: float, end: float, seconds: float, tmp_path: Path) -> None:
    samples = write(tmp_path / "a.wav", seconds)
    waveform, change = segment(tmp_path / "a.wav", start, end)
    assert change == SEGMENT
    expected = samples[round(start * RATE) : round(min(end, start + 10) * RATE)]
    np.testing.assert_array_equal(waveform, expected.astype(np.float32) / 32768)


def test_other_rates_are_resampled_before_they_are_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(48_000 * 14), 48_000)
    waveform, change = first_clip(tmp_path / "a.wav")
    assert (len(waveform), change) == (CLIP_SAMPLES, SHORTENED)


def test_messy_class_folders(tmp_path: Path) -> None:
    """Stray and hidden files, an empty class, a nested folder, upper case, a dash, a comma, another script."""
    root = tmp_path / "train"
    names = [
        "-dog/0.wav",
        "Bird, small/0.wav",
        "dog/0.wav",
        "dog/UP.WAV",
        "dog/nested/1.wav",
        "dog/._0.wav",
        "鳥/0.wav",
    ]
    for name in names:
        write(root / name, 0.5)
    (root / "horn").mkdir()
    for name in ("labels.csv", "dog/Thumbs.db", "dog/notes.txt", "dog/.git/config.wav"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x,y")
    collection = folder_collection(root)
    assert collection.warnings == (
        f"{root / 'horn'}: holds no audio; there will be no class 'horn'",
        f"{root}: 2 files without the name of a sound file are left alone (1 x .db, 1 x .txt)",
    )
    made = prepare(collection, tmp_path / "out.h5", workers=1)
    assert sum(made.left_out.values()) == 0
    lines, warnings = made.lines()
    assert warnings == []
    assert lines[-4:] == ["       1  -dog", "       1  Bird, small", "       3  dog", "       1  鳥"]


def test_a_folder_one_level_too_high_is_told_of(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            write(tmp_path / split / label / "0.wav", 0.5)
    (warning,) = folder_collection(tmp_path).warnings
    assert warning.startswith(f"{tmp_path}: looks one level too high")
    assert str(tmp_path / "train") in warning
    assert folder_collection(tmp_path / "train").warnings == ()


def test_classes_and_warnings_by_the_command(tmp_path: Path) -> None:
    write(tmp_path / "train" / "dog" / "0.wav", 12)
    (tmp_path / "train" / "cat").mkdir()
    (tmp_path / "train" / "bird").mkdir()
    (tmp_path / "train" / "bird" / "broken.wav").write_text("no sound")
    code = "from audioset_dcls.commands.prepare import main; main()"
    command = [sys.executable, "-c", code, "folder", "train", "-o", "out.h5"]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2:] == ["cut: 1 files of over 10 s into 2 clips", "       0  bird", "       2  dog"]
    assert done.stderr.splitlines() == [
        "dcls-prepare: train/cat: holds no audio; there will be no class 'cat'",
        "dcls-prepare: out.h5: no clip of 1 of the 2 classes: bird",
    ]
    with (tmp_path / "out.left_out.csv").open(newline="") as file:
        assert [row["clip"] for row in csv.DictReader(file)] == ["bird/broken.wav"]
