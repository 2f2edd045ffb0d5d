from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from preprocessing.clips import writer as writing
from preprocessing.clips.layout import ClipFileError, clip_id, hash_ids, to_int16
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from preprocessing.corpora.open_sounds.lists import load_recordings

SAMPLES = 3200
LABELS = ("dog", "Male speech, man speaking", "Ein Käuzchen")


@pytest.fixture
def clips() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return {
        "names": [f"Y{number:011d}.wav" for number in range(11)],
        "waveforms": generator.integers(-32767, 32768, (11, SAMPLES)).astype(np.int16),
        "targets": generator.random((11, len(LABELS))) > 0.5,
        "groups": [f"package {number % 3}" for number in range(11)],
        "teacher": generator.random((11, len(LABELS))).astype(np.float16),
    }


def write(path: Path, clips: dict[str, Any], compression: str | None = None, batch: int = 4) -> writing.Written:
    """Write all clips, going on where a run before was cut off."""
    with ClipWriter(path, LABELS, samples=SAMPLES, compression=compression, teacher=True, group=True) as writer:
        for first in range(len(writer), len(clips["names"]), batch):
            part = slice(first, first + batch)
            writer.append(
                clips["names"][part],
                clips["waveforms"][part],
                clips["targets"][part],
                groups=clips["groups"][part],
                teacher=clips["teacher"][part],
                note=first,
            )
        return writer.finish({"made_by": "a test"})


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_plain_h5py_reads_what_was_written(tmp_path: Path, clips: dict[str, Any], compression: str | None) -> None:
    written = write(tmp_path / "clips.h5", clips, compression)
    with h5py.File(tmp_path / "clips.h5") as file:
        assert set(file) == {"audio_name", "waveform", "target", "group", "teacher"}
        assert (file["waveform"].dtype, file["waveform"].chunks) == (np.int16, (1, SAMPLES))
        assert file["waveform"].compression == compression
        np.testing.assert_array_equal(file["waveform"][:], clips["waveforms"])
        assert file["target"].dtype == bool
        np.testing.assert_array_equal(file["target"][:], clips["targets"])
        np.testing.assert_array_equal(file["teacher"][:], clips["teacher"])
        assert [name.decode() for name in file["audio_name"][:]] == clips["names"]
        assert [group.decode() for group in file["group"][:]] == clips["groups"]
        assert tuple(json.loads(file.attrs["labels"])) == LABELS
        assert file.attrs["clip_count"] == written.clip_count == 11
        ids = sorted(name[1:12] for name in clips["names"])
        assert file.attrs["clip_ids_sha256"] == hashlib.sha256("\n".join(ids).encode()).hexdigest()
        assert file.attrs["made_by"] == "a test"
    assert not (tmp_path / "clips.h5.part").exists()


def dies_at(step: int) -> Callable[[str, Callable[..., Any]], Callable[..., Any]]:
    """Wrap functions so that the process kills itself at their `step`-th call in all, half-way through a write."""
    calls = iter(range(10**6))

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if next(calls) == step:
                if name in ("_write", "pwrite"):
                    target, data, *position = arguments
                    function(target, bytes(data)[: len(data) // 2], *position)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return wrapped

    return wrap


@pytest.mark.parametrize("compression", [None, pytest.param("gzip", marks=pytest.mark.slow)])
def test_killed_at_every_step_it_goes_on_to_the_same_bytes(
    tmp_path: Path, clips: dict[str, Any], compression: str | None
) -> None:
    write(tmp_path / "whole.h5", clips, compression)
    whole = (tmp_path / "whole.h5").read_bytes()
    path = tmp_path / "killed.h5"
    step = 0
    while True:
        child = os.fork()
        if child == 0:
            wrap = dies_at(step)
            writing._write = wrap("_write", writing._write)
            os.fsync = wrap("fsync", os.fsync)
            os.pwrite = wrap("pwrite", os.pwrite)
            os.ftruncate = wrap("ftruncate", os.ftruncate)
            Path.rename = wrap("rename", Path.rename)  # type: ignore[method-assign]
            writing.shutil.rmtree = wrap("rmtree", writing.shutil.rmtree)
            write(path, clips, compression)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        if not path.exists():  # else it was killed after the rename: there is nothing left to do
            write(path, clips, compression)
        assert path.read_bytes() == whole, f"killed at step {step}"
        path.unlink()
        step += 1
    assert os.WEXITSTATUS(status) == 0
    assert step > 20  # it did die, over and over


def test_notes_tell_what_was_appended(tmp_path: Path, clips: dict[str, Any]) -> None:
    path = tmp_path / "clips.h5"
    with ClipWriter(path, LABELS, samples=SAMPLES) as writer:
        writer.append(clips["names"][:2], clips["waveforms"][:2], clips["targets"][:2], note={"left": "b"})
        writer.append([], [], np.zeros((0, 3), bool), note="none was readable")
        assert writer.notes == []
    with ClipWriter(path, LABELS, samples=SAMPLES) as writer:
        assert (len(writer), writer.notes) == (2, [{"left": "b"}, "none was readable"])
        assert clips["names"][1] in writer
        assert clips["names"][2] not in writer


def test_a_second_process_is_refused_while_one_writes(tmp_path: Path) -> None:
    with (
        ClipWriter(tmp_path / "clips.h5", samples=SAMPLES),
        pytest.raises(ClipFileError, match="another process is writing"),
    ):
        ClipWriter(tmp_path / "clips.h5", samples=SAMPLES)


@pytest.mark.parametrize("other", [{"samples": 6400}, {"labels": ("cat",)}, {"source": "b"}, {"compression": "gzip"}])
def test_other_settings_do_not_go_on_with_what_was_begun(tmp_path: Path, other: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"labels": LABELS, "samples": SAMPLES, "source": "a"}
    ClipWriter(tmp_path / "clips.h5", **settings).close()
    with pytest.raises(ClipFileError, match="other sources or settings"):
        ClipWriter(tmp_path / "clips.h5", **(settings | other))
    ClipWriter(tmp_path / "clips.h5", **settings).close()


def test_what_does_not_fit_is_refused_and_nothing_of_it_stays(tmp_path: Path, clips: dict[str, Any]) -> None:
    names, waveforms, targets = clips["names"][:2], clips["waveforms"][:2], clips["targets"][:2]
    with ClipWriter(tmp_path / "clips.h5", LABELS, samples=SAMPLES) as writer:
        with pytest.raises(ClipFileError, match="not one clip"):
            writer.finish()
        for bad in (
            (names, waveforms[:, 1:], targets),
            (names, waveforms[:1], targets),
            (names, waveforms, targets[:, 1:]),
            (names[:1] * 2, waveforms, targets),
        ):
            with pytest.raises(ClipFileError, match=r"clips\.h5"):
                writer.append(*bad)
        writer.append(names, waveforms, targets)
        with pytest.raises(ClipFileError, match="twice"):
            writer.append(names[1:], waveforms[1:], targets[1:])
        writer.finish()
    np.testing.assert_array_equal(ClipFile(tmp_path / "clips.h5").waveforms([0, 1]), waveforms)
    with pytest.raises(ClipFileError, match="exists already"):
        ClipWriter(tmp_path / "clips.h5", samples=SAMPLES)


def test_files_of_panns_are_read_without_the_rows_it_left_empty(tmp_path: Path, clips: dict[str, Any]) -> None:
    targets = np.zeros((11, 527), bool)
    targets[np.arange(11), np.arange(11)] = True
    with h5py.File(tmp_path / "panns.h5", "w") as file:  # as audioset_tagging_cnn/utils/dataset.py lays it out
        file.create_dataset("audio_name", shape=(11,), dtype="S20")
        file.create_dataset("waveform", shape=(11, SAMPLES), dtype=np.int16)
        file.create_dataset("target", shape=(11, 527), dtype=bool)
        file.attrs.create("sample_rate", data=32000, dtype=np.int32)
        for row in (0, 1, 3, 4, 10):
            file["audio_name"][row] = clips["names"][row].encode()
            file["waveform"][row] = clips["waveforms"][row]
            file["target"][row] = targets[row]
    panns = ClipFile(tmp_path / "panns.h5")
    assert len(panns) == 5
    assert (len(panns.labels), panns.labels[0], panns.labels[-1]) == (527, "Speech", "Field recording")
    assert panns.audio_names() == [clips["names"][row] for row in (0, 1, 3, 4, 10)]
    np.testing.assert_array_equal(panns.waveforms([2, 4, 0]), clips["waveforms"][[3, 10, 0]])
    np.testing.assert_array_equal(panns.read("target", [2, 3, 4]), targets[[3, 4, 10]])
    np.testing.assert_array_equal(np.flatnonzero(panns.label_counts()), [0, 1, 3, 4, 10])


def write_grouped(path: Path, names: list[str], groups: list[str], source: str) -> ClipFile:
    with ClipWriter(path, LABELS, samples=SAMPLES, group=True, source=source) as writer:
        count = len(names)
        waveforms = np.zeros((count, SAMPLES), np.int16)
        writer.append(names, waveforms, np.zeros((count, len(LABELS)), bool), groups=groups)
        writer.finish()
    return ClipFile(path)


def test_sources_of_open_sounds_are_packages_and_repositories(tmp_path: Path) -> None:
    """A series inside a package, one that spans packages, a package, a repository, a voice without a package."""
    names = ["freepats/usr/58.pat!2", "ufoai-sound/0.pk3!a.ogg@5", "kpat/usr/a.ogg", "owner/name/a/b.ogg@10", "tts_001"]
    groups = ["freepats:tuba", "openarena-sarge", "kpat", "owner/name", "tts:flite"]
    file = write_grouped(tmp_path / "open.h5", names, groups, "open-sounds 0123")
    assert file.sources() == ["freepats", "ufoai-sound", "kpat", "owner/name", "tts:flite"]


def test_every_listed_recording_has_its_package_as_source(tmp_path: Path) -> None:
    recordings = load_recordings()[::10]
    names, groups = [recording.name for recording in recordings], [recording.group for recording in recordings]
    assert sum(group != recording.origin for group, recording in zip(groups, recordings, strict=True)) > 100
    file = write_grouped(tmp_path / "listed.h5", names, groups, "open-sounds 0123")
    assert file.sources() == [recording.origin for recording in recordings]


def test_sources_of_other_files_are_their_groups(tmp_path: Path, clips: dict[str, Any]) -> None:
    file = write_grouped(tmp_path / "own.h5", ["audio/1.wav", "audio/2.wav"], ["speaker 1", "speaker 2"], "")
    assert file.sources() == ["speaker 1", "speaker 2"]
    with ClipWriter(tmp_path / "ungrouped.h5", LABELS, samples=SAMPLES) as writer:
        writer.append(clips["names"], clips["waveforms"], clips["targets"])
        writer.finish()
    assert ClipFile(tmp_path / "ungrouped.h5").sources() is None


def test_reading_into_places_from_starts(tmp_path: Path, clips: dict[str, Any]) -> None:
    write(tmp_path / "clips.h5", clips)
    out = np.zeros((3, 100), np.int16)
    ClipFile(tmp_path / "clips.h5").read_waveforms([5, 7], out, out_rows=[2, 0], starts=[10, SAMPLES - 100])
    np.testing.assert_array_equal(out[2], clips["waveforms"][5, 10:110])
    np.testing.assert_array_equal(out[0], clips["waveforms"][7, -100:])
    assert not out[1].any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.pop("target"), "dataset is missing"),
        (lambda file: file.attrs.modify("labels", '["one"]'), "3 columns in target for 1 labels"),
        (lambda file: file.attrs.modify("sample_rate", 16000), "16000 Hz"),
        (lambda file: (file.pop("waveform"), file.create_dataset("waveform", (11, 5), "f4")), "float32"),
        (lambda file: (file.pop("audio_name"), file.create_dataset("audio_name", (4,), "S9")), "4, 11 and 11 rows"),
    ],
)
def test_files_of_another_layout_are_named(
    tmp_path: Path, clips: dict[str, Any], change: Callable[[h5py.File], Any], said: str
) -> None:
    write(tmp_path / "clips.h5", clips)
    with h5py.File(tmp_path / "clips.h5", "r+") as file:
        change(file)
    with pytest.raises(ClipFileError, match=f"clips.h5: .*{said}") as error:
        ClipFile(tmp_path / "clips.h5")
    assert "\n" not in str(error.value)


def test_what_is_no_hdf5_is_named(tmp_path: Path, clips: dict[str, Any]) -> None:
    write(tmp_path / "clips.h5", clips)
    cut = tmp_path / "cut.h5"
    cut.write_bytes((tmp_path / "clips.h5").read_bytes()[:-4000])
    text = tmp_path / "text.h5"
    text.write_text("hello")
    for path in (cut, text, tmp_path / "nowhere.h5"):
        with pytest.raises(ClipFileError, match=path.name):
            ClipFile(path)


def test_ids_and_samples() -> None:
    assert clip_id("YY-3jJ_8aaaa.wav") == "Y-3jJ_8aaaa"
    assert clip_id("Yes.wav") == "Yes.wav"
    assert hash_ids(["b", "a"]) == hash_ids(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()
    # PANNs reads x / 32767: every int16 but -32768 comes back
    every = np.arange(-32767, 32768)
    np.testing.assert_array_equal(to_int16((every / 32767).astype(np.float32)), every)
    np.testing.assert_array_equal(to_int16(np.array([-2.0, 2.0])), [-32767, 32767])
