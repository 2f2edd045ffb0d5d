"""Whatever lies in a folder: one line for what cannot be tagged, the rest is tagged, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.tagging.bad_inputs import BAD_INPUTS, FAILS
from tests.tagging.conftest import RECORDINGS, write_tones

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
    if fine:
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
            assert (name in done.stderr) == (not fine), name


def test_mutated_files(folder: Path, tmp_path: Path, tag_here: Callable[..., tuple[int, str, str]]) -> None:
    """200 recordings with bytes changed, cut and put in, seeded: tagged or one line each, the good ones tagged."""
    rng = np.random.default_rng(0)
    sources = sorted(path for path in RECORDINGS.iterdir() if path.suffix in (".wav", ".ogg", ".oga", ".mp3", ".voc"))
    sources = [path for path in sources if path.stat().st_size < 40_000]
    mutated = tmp_path / "mutated"
    mutated.mkdir()
    for number in range(200):
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
        (mutated / f"{number:03}{source.suffix}").write_bytes(content)
    good = write_tones(mutated, [f"{number:03}_good.wav" for number in range(0, 200, 20)], 0.5)
    status, out, err = tag_here("--format", "jsonl", "--window", "2", "--hop", "2", mutated)
    tagged = {json.loads(line)["file"] for line in out.splitlines()}
    failed = [line for line in err.splitlines() if line.startswith(f"dcls-tag: {mutated}")]
    assert "Traceback" not in err
    assert {str(path) for path in good} <= tagged
    assert status == (1 if failed else 0)
    assert len(tagged) + len(failed) == 210
    assert len(failed) > 10, "the mutations do not hurt"
