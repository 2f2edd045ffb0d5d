import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile

from preprocessing.clips.reader import ClipFile
from preprocessing.corpora.open_sounds import OpenSoundsError, prepare_open_sounds
from preprocessing.corpora.open_sounds.debian import unpack
from preprocessing.corpora.open_sounds.lists import Recording
from preprocessing.corpora.open_sounds.prepare import decode
from preprocessing.labels import labels
from tests.preprocessing.corpora.open_sounds.corpus import RATE, Corpus, frequency, tone
from tests.processes import signalled_at

pytestmark = pytest.mark.usefixtures("no_tools")

CLIPS = {
    "train": 4,
    "unlabelled": 1,
    "validation": 1,
    "test": 1,
    "repositories_train": 3,
    "repositories_validation": 1,
    "repositories_test": 1,
}


def stored(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file} | {"samples": file.attrs.get("samples")}


def check(path: Path, expected: dict[bytes, tuple[float, int, set[str], bytes, float]], tolerance: float = 3) -> None:
    """name: (frequency, samples, labels, group, score) of each clip of the file."""
    found = stored(path)
    index = {label.display_name: label.index for label in labels()}
    assert set(found["audio_name"]) == set(expected)
    for row, name in enumerate(found["audio_name"]):
        hertz, samples, names, group, score = expected[name]
        waveform = found["waveform"][row]
        assert found["samples"][row] == samples
        assert not waveform[samples:].any()
        assert abs(frequency(waveform[:samples]) - hertz) < tolerance
        assert set(np.flatnonzero(found["target"][row])) == {index[label] for label in names}
        assert found["group"][row] == group
        assert (found["teacher"][row] == np.float16(score)).all()


def test_the_files_hold_what_the_lists_say(corpus: Corpus, tmp_path: Path) -> None:
    said: list[str] = []
    made = prepare_open_sounds(tmp_path / "out", say=said.append, **corpus.sources())
    assert made.clips == CLIPS
    assert sorted(line.partition(": ")[0] for line in made.left_out) == [
        "gamma/usr/damaged.wav",
        "other/three/changed.wav",
        "other/three/never.wav",
    ]
    assert any("0.0 GB of packages to download" in line for line in said)
    assert any("flite not installed" in line for line in said)
    check(
        tmp_path / "out/train.h5",
        {
            b"alpha/usr/bell.wav": (500, 16_000, {"Bell"}, b"alpha:bell", 0),
            b"alpha/usr/dog.wav@0.2": (700, 19_200, {"Animal", "Dog"}, b"alpha:dog", 1 / 16),
            b"delta/usr/d.pk3!in/cat.wav": (1_300, 16_000, {"Cat"}, b"delta:c", 5 / 16),
            b"delta/usr/d.rcc!sounds/d.wav": (1_500, 16_000, {"Cat"}, b"delta:d", 6 / 16),
        },
    )
    unlabelled: dict[bytes, Any] = {b"alpha/usr/other.wav": (600, 12_800, set(), b"alpha", (128 / 255) ** 2)}
    check(tmp_path / "out/unlabelled.h5", unlabelled)
    assert (tmp_path / "out/copyright/gamma").read_text() == "licence of gamma"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.h5" for name in CLIPS} | {"copyright"}


def repositories_train(samples: int, cut: int) -> dict[bytes, Any]:
    """What repositories_train.h5 holds: a label that the teacher did not confirm is left out."""
    return {
        b"owner/one/a/ring.wav": (2_000, samples, {"Bell"}, b"owner/one", (3 / 255) ** 2),
        b"owner/one/a/odd! [1] name#?!.wav@0.1": (2_200, cut, set(), b"owner/one", (4 / 255) ** 2),
        b"owner/one/a/quiet.wav": (2_300, samples, set(), b"owner/one", (5 / 255) ** 2),
    }


def test_repositories_come_by_git_and_what_changed_or_is_gone_is_named(corpus: Corpus, tmp_path: Path) -> None:
    made = prepare_open_sounds(tmp_path / "out", **corpus.sources())
    check(tmp_path / "out/repositories_train.h5", repositories_train(16_000, 12_800))
    lines = [line for line in made.left_out if line.startswith("other/three/")]
    assert "other/three/changed.wav: the SHA-256 of changed.wav is not " in "\n".join(lines)
    assert "other/three/never.wav: never.wav is gone from the package or commit" in lines
    assert ClipFile(tmp_path / "out/repositories_train.h5").sources() == ["owner/one"] * 3


def test_repositories_come_from_tars(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no git
    made = prepare_open_sounds(tmp_path / "out", corpus.debs, corpus.tars, data=corpus.data)
    assert made.clips == CLIPS | {"repositories_test": 3}
    found = stored(tmp_path / "out/repositories_train.h5")
    expected = repositories_train(16_000, 12_800)
    for row, name in enumerate(found["audio_name"]):
        hertz, samples, _, group, score = expected[name]
        assert abs(frequency(found["waveform"][row][:samples]) - hertz) < 5
        assert abs(found["samples"][row] - samples) < 1_000  # Opus pads
        assert (found["group"][row], found["teacher"][row][0]) == (group, np.float16(score))


def test_without_git_it_says_so_before_the_start(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OpenSoundsError, match=r"git is not installed; install it, or give .* by --tars"):
        prepare_open_sounds(tmp_path / "out", **corpus.sources())
    assert not list((tmp_path / "out").glob("*.part"))


def test_a_repository_that_is_gone_is_named_and_the_rest_is_finished(corpus: Corpus, tmp_path: Path) -> None:
    shutil.rmtree(corpus.repositories / "other/three")
    table = (corpus.data / "repositories.tsv").read_text().replace("\ttest\t", "\ttrain\t")
    (corpus.data / "repositories.tsv").write_text(table)
    recordings = (corpus.data / "repository_recordings.csv").read_text().splitlines(keepends=True)
    two = [line.replace("owner/two,v.wav", "other/four,v.wav") for line in recordings if "owner/two" in line]
    assert len(two) == 1
    shutil.copytree(corpus.repositories / "owner/two", corpus.repositories / "other/four")
    commit = next(line.split("\t")[1] for line in table.splitlines() if line.startswith("owner/two"))
    (corpus.data / "repositories.tsv").write_text(table + f"other/four\t{commit}\ttest\tCC0-1.0\tREADME\n")
    (corpus.data / "repository_recordings.csv").write_text("".join(recordings + two))
    with np.load(corpus.data / "repository_scores.npz") as arrays:
        scores = arrays["repositories"]
    np.savez(corpus.data / "repository_scores.npz", repositories=np.concatenate([scores, scores[:1]]))
    made = prepare_open_sounds(tmp_path / "out", **corpus.sources())
    assert (made.clips["repositories_train"], made.clips["repositories_test"]) == (3, 1)
    (line,) = [line for line in made.left_out if line.startswith("other/three")]
    assert "is gone" in line
    assert line.endswith("3 clips of repositories_train.h5")


def test_a_repository_that_cannot_be_reached_keeps_its_file_unfinished(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(
        OpenSoundsError, match=r"3 packages or repositories could not be had \(owner/one, .*Run the same"
    ):
        prepare_open_sounds(tmp_path / "out", corpus.debs, repositories_url="http://127.0.0.1:9", data=corpus.data)
    assert (tmp_path / "out/train.h5").exists()
    assert not (tmp_path / "out/repositories_train.h5").exists()
    made = prepare_open_sounds(tmp_path / "out", **corpus.sources())
    assert made.clips == {name: CLIPS[name] for name in CLIPS if name.startswith("repositories")}


def test_the_core_is_a_part_and_its_files_are_not_taken_for_the_whole(corpus: Corpus, tmp_path: Path) -> None:
    assert prepare_open_sounds(tmp_path / "out", core=True, **corpus.sources()).clips["train"] == 2
    with pytest.raises(OpenSoundsError, match=r"train\.h5: made from other lists or packages"):
        prepare_open_sounds(tmp_path / "out", **corpus.sources())


def test_a_missing_package_keeps_the_others_and_can_be_added(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    shutil.move(corpus.debs / "delta_1.0_all.deb", tmp_path / "delta_1.0_all.deb")
    with pytest.raises(OpenSoundsError, match=r"1 packages or repositories could not be had \(delta\)"):
        prepare_open_sounds(tmp_path / "out", corpus.debs, corpus.tars, data=corpus.data)
    assert (tmp_path / "out/test.h5").exists()
    assert (tmp_path / "out/unlabelled.h5").exists()  # delta has nothing for it
    assert not (tmp_path / "out/train.h5").exists()
    shutil.move(tmp_path / "delta_1.0_all.deb", corpus.debs / "delta_1.0_all.deb")
    assert prepare_open_sounds(tmp_path / "out", corpus.debs, corpus.tars, data=corpus.data).clips == {"train": 4}


def test_a_package_may_lie_there_unpacked(corpus: Corpus, tmp_path: Path) -> None:
    files = frozenset({"usr/bell.wav", "usr/dog.wav", "usr/other.wav", "usr/b.wav", "usr/g.wav"})
    for archive in corpus.debs.glob("*.deb"):
        unpack(archive, corpus.debs / archive.name.partition("_")[0], files)
    made = prepare_open_sounds(tmp_path / "out", core=True, **corpus.sources())
    assert made.clips["train"] == 2
    assert (corpus.debs / "alpha/usr/bell.wav").exists()  # what was given stays


def test_a_disk_that_is_too_small_is_told_of_before_the_start(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(OpenSoundsError, match=r"0\.001 GB are free, 0\.0\d+ GB are needed; try --core"):
        prepare_open_sounds(tmp_path / "out", **corpus.sources())
    assert not (tmp_path / "out/train.h5.part").exists()


@pytest.mark.usefixtures("archive")
def test_the_whole_corpus_comes_from_apt_and_git(corpus: Corpus, tmp_path: Path) -> None:
    made = prepare_open_sounds(tmp_path / "out", repositories_url=corpus.url, data=corpus.data)
    assert made.clips == CLIPS
    assert not (tmp_path / "out/.fetched").exists()


def test_a_recording_is_cut_to_its_times(tmp_path: Path) -> None:
    """500 Hz for 12 s, then 1 kHz for 2 s: the cut hits the second."""
    sound = np.concatenate([tone(500, 12, 48_000), tone(1_000, 2, 48_000)])
    soundfile.write(tmp_path / "long.flac", sound, 48_000)
    recording = Recording("p", "long.flac", 12.25, 13.25, "g", ("Music",), np.zeros(527))
    waveform = decode(recording, tmp_path)
    assert len(waveform) == RATE
    assert abs(frequency(waveform) - 1_000) < 2


RUN = """
import sys
from pathlib import Path
from preprocessing.corpora.open_sounds import prepare, writing
prepare.missing_tools = lambda: ["flite"]
writing.BATCH = 1
out, debs, url, data, tars = sys.argv[1:]
prepare.prepare_open_sounds(out, debs, tars or None, repositories_url=url, data=Path(data))
"""


@pytest.mark.parametrize("tars", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_again_and_again_it_ends_in_the_same_files(corpus: Corpus, tmp_path: Path, tars: bool) -> None:
    places = [str(corpus.debs), corpus.url, str(corpus.data), str(corpus.tars) if tars else ""]
    subprocess.run([sys.executable, "-c", RUN, tmp_path / "whole", *places], check=True, capture_output=True)
    for number in (3, 14, 31, 20):
        killed = signalled_at("fsync", number, signal.SIGKILL) + RUN
        done = subprocess.run([sys.executable, "-c", killed, tmp_path / "out", *places], capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    subprocess.run([sys.executable, "-c", RUN, tmp_path / "out", *places], check=True, capture_output=True)
    for name in CLIPS:
        assert (tmp_path / f"out/{name}.h5").read_bytes() == (tmp_path / f"whole/{name}.h5").read_bytes()
