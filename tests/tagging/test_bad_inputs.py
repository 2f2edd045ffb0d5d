"""Whatever lies in a folder: one line for what cannot be tagged, the rest is tagged, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from preprocessing.audio import read_audio
from tests.conftest import RECORDINGS, write_tones
from tests.preprocessing.test_audio import encode_with_ffmpeg, encode_with_soundfile
from tests.tagging.bad_inputs import BAD_INPUTS, FAILS

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
GOOD = ("good_1.wav", "good_2.wav", "good_3.wav")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bad")
    write_tones(folder, GOOD)
    for name, (make, _) in BAD_INPUTS.items():
        make(folder / name)
    yield folder
    (folder / "unreadable.wav").chmod(0o600)


def test_there_are_enough() -> None:
    assert len(BAD_INPUTS) > 40
    assert sum(fine is FAILS for _, fine in BAD_INPUTS.values()) > 20


@pytest.mark.parametrize("name", BAD_INPUTS, ids=lambda name: ascii(name)[:30])
def test_between_good_files(name: str, folder: Path, tag_here: Callable[..., tuple[int, str, str]]) -> None:
    """The command on a good file, the bad one and two good files."""
    if name == "unreadable.wav" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    files = [folder / GOOD[0], folder / name, folder / GOOD[1], folder / GOOD[2]]
    status, out, err = tag_here("--format", "jsonl", "--window", "20", "--hop", "20", "--", *files)
    tagged = [json.loads(line)["file"] for line in out.splitlines()]
    fine = BAD_INPUTS[name][1]
    if fine is None:
        fine = status == 0  # noise may hold something like a frame of MP3; either way is right
    assert status == (0 if fine else 1)
    assert tagged == [str(file) for file in files if fine or file.name != name]
    assert "Traceback" not in err
    complaints = [line for line in err.splitlines() if " recordings, " not in line]
    if fine and name.startswith("truncated."):
        (note,) = complaints
        assert note.startswith(f"dcls-tag: {folder / name}: ")
        assert ("no end mark" if name.endswith("ogg") else "s of the declared ") in note
    elif fine:
        assert complaints == []
    else:
        (complaint,) = complaints
        assert complaint.startswith("dcls-tag: ")
        assert name in complaint


def test_the_whole_folder_by_the_real_command(
    folder: Path, dcls_tag: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Every recording is in the output or in the errors, once; a pipe that nobody writes to is not waited for."""
    if not (folder / "pipe.wav").exists():
        os.mkfifo(folder / "pipe.wav")
    done = dcls_tag(folder, "-o", tmp_path / "out", "--format", "jsonl,csv", "--window", "20", "--hop", "20")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    tagged = [json.loads(line)["file"] for line in (tmp_path / "out" / "tags.jsonl").read_text().splitlines()]
    assert len(tagged) == len(set(tagged))
    for name in GOOD:
        assert str(folder / name) in tagged
    for name, (_, fine) in BAD_INPUTS.items():
        # a walk finds neither what is missing, nor folders and devices; root reads what is unreadable
        if name not in ("missing.wav", "folder.wav", "device.wav", "unreadable.wav") and fine is not None:
            assert (str(folder / name) in tagged) == bool(fine), name
            assert (name in done.stderr) == (not fine or name.startswith("truncated.")), name


def test_mutated_files(folder: Path, tmp_path: Path, tag_here: Callable[..., tuple[int, str, str]]) -> None:
    """100 recordings with bytes changed, cut and put in, seeded: tagged or one line each, the good ones tagged."""
    sources = [path for path in RECORDINGS.iterdir() if path.suffix in (".wav", ".ogg", ".oga", ".mp3", ".voc")]
    good = fill_with_mutated(
        tmp_path / "mutated", sorted(path for path in sources if path.stat().st_size < 40_000), 100
    )
    status, out, err = tag_here("--format", "jsonl", "--window", "2", "--hop", "2", tmp_path / "mutated")
    check_mutated(tmp_path / "mutated", good, status, out, err)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_300_mutated_files_by_the_real_command(
    seed: int, tmp_path: Path, dcls_tag: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """As above, in 20 formats: nothing but results on stdout, nothing but one line a file on stderr, no traceback."""
    sources = write_in_every_format(tmp_path / "sources")
    assert len(sources) == 20
    good = fill_with_mutated(tmp_path / "mutated", sources, 300, seed)
    done = dcls_tag("--format", "jsonl", "--window", "5", "--hop", "5", tmp_path / "mutated", timeout=500)
    check_mutated(tmp_path / "mutated", good, done.returncode, done.stdout, done.stderr)
    for path in sorted((tmp_path / "mutated").iterdir())[::30]:  # alone it is decoded in the command's own process
        done = dcls_tag("--format", "jsonl", "--window", "5", "--hop", "5", path)
        assert done.returncode in (0, 1)
        tagged = [json.loads(line)["file"] for line in done.stdout.splitlines()]
        assert tagged in ([str(path)], [])
        assert tagged or done.stderr
        assert "Traceback" not in done.stderr
        assert [line for line in done.stderr.splitlines() if str(path) not in line] == []


def write_in_every_format(folder: Path) -> list[Path]:
    """Two seconds of a recording, as libsndfile and ffmpeg write it."""
    folder.mkdir()
    rate = 44_100
    samples = read_audio(RECORDINGS / "cow.ogg", rate)[: 2 * rate, None]
    subtypes = {"w64": "PCM_24", "au": "FLOAT", "caf": "ALAC_16", "aiff": "PCM_16", "voc": "PCM_16", "sds": "PCM_16"}
    subtypes |= {"rf64": "PCM_16", "ircam": "PCM_16", "paf": "PCM_16", "nist": "PCM_16", "mp3": "MPEG_LAYER_III"}
    subtypes |= {"wav": "MS_ADPCM", "flac": "PCM_16", "ogg": "VORBIS"}
    for name, subtype in subtypes.items():
        (folder / f"sound.{name}").write_bytes(encode_with_soundfile(samples, rate, name.upper(), subtype))
    codecs = {"ipod": "aac", "matroska": "ac3", "adts": "aac", "asf": "wmav2", "mpegts": "mp2", "avi": "pcm_s16le"}
    for name, codec in codecs.items():
        (folder / f"sound.{name}").write_bytes(encode_with_ffmpeg(samples, rate, name, codec))
    return sorted(folder.iterdir())


def fill_with_mutated(folder: Path, sources: Sequence[Path], count: int, seed: int = 0) -> list[Path]:
    """`count` mutated copies of `sources`; returns the good files between them, one for every twenty."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        source = sources[number % len(sources)]
        content = bytearray(source.read_bytes())
        for _ in range(int(rng.integers(1, 20))):
            # half of the changes hit the header, where they hurt
            place = int(rng.integers(0, len(content) if rng.random() < 0.5 else 100))
            kind = rng.integers(3)
            if kind == 0:
                content[place] = int(rng.integers(256))
            elif kind == 1:
                del content[place : place + int(rng.integers(1, 500))]
            else:
                content[place:place] = rng.bytes(int(rng.integers(1, 50)))
        # a suffix that a folder is searched for; decoders look at the content alone
        (folder / f"{number:03}{source.suffix}.wav").write_bytes(content)
    return write_tones(folder, [f"{number:03}_good.wav" for number in range(0, count, 20)], 0.5)


def check_mutated(folder: Path, good: Sequence[Path], status: int, out: str, err: str) -> None:
    """Every file is in the results or in a line of its own on stderr, the good ones are in the results."""
    every = {str(path) for path in folder.iterdir()}
    tagged = [json.loads(line)["file"] for line in out.splitlines()]
    assert "Traceback" not in err
    assert len(tagged) == len(set(tagged))
    assert {str(path) for path in good} <= set(tagged) <= every
    named = {line.removeprefix("dcls-tag: ").split(": ")[0] for line in err.splitlines()}
    assert every - set(tagged) <= named
    assert {name for name in named if name.startswith(str(folder))} <= every
    assert len(every - set(tagged)) > len(every) / 20, "the mutations do not hurt"
    assert status == 1
