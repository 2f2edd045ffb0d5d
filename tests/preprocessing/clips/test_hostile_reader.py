"""HDF5 and npz files made to harm: one line each, nothing is read from elsewhere, and no memory is taken."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from preprocessing.clips.layout import ClipFileError
from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from preprocessing.npz import read_npz
from tests.memory import peak, reset_peak

ROOT = Path(__file__).parents[3]
ROWS, SAMPLES = 5, 3200
ADDRESS_SPACE = 4 * 2**30  # bytes that the process which opens them may have


def write(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["audio_name"] = np.array([f"{row}.wav".encode() for row in range(ROWS)])
        file["waveform"] = np.ones((ROWS, SAMPLES), np.int16)
        file["target"] = np.ones((ROWS, 2), bool)
        file["teacher"] = np.ones((ROWS, 2), np.float16)
        file["embedding"] = np.ones((ROWS, 3), np.float16)
        file["group"] = np.array([b"a"] * ROWS)
        file.attrs["labels"] = '["dog", "cat"]'
        file.attrs["sample_rate"] = np.int32(32_000)


def replaced(name: str, make: Callable[[h5py.File], Any]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        made = make(file)
        if made is not None and not isinstance(made, h5py.Dataset):
            file[name] = made

    return change


def external(file: h5py.File) -> h5py.Dataset:
    return file.create_dataset("waveform", (ROWS, SAMPLES), np.int16, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((ROWS, SAMPLES), np.int16)
    layout[:] = h5py.VirtualSource("/etc/other.h5", "waveform", (ROWS, SAMPLES))
    file.create_virtual_dataset("waveform", layout)


def dataset(name: str, shape: tuple[int, ...], dtype: Any, **options: Any) -> Callable[[h5py.File], None]:
    return replaced(name, lambda file: file.create_dataset(name, shape, dtype, **options))


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "external storage": replaced("waveform", external),
    "external link": replaced("waveform", lambda file: h5py.ExternalLink("/etc/passwd", "/waveform")),
    "soft link": replaced("target", lambda file: h5py.SoftLink("/waveform")),
    "virtual": replaced("waveform", virtual),
    "link in the names": replaced("audio_name", lambda file: h5py.ExternalLink("other.h5", "/audio_name")),
    "link in the groups": replaced("group", lambda file: h5py.ExternalLink("other.h5", "/group")),
    "group": replaced("waveform", lambda file: file.create_group("waveform") and None),
    "10^9 names": dataset("audio_name", (10**9,), "S20"),
    "10^9 names, packed": dataset("audio_name", (10**9,), "S20", chunks=(10**6,), compression="gzip"),
    "long names": dataset("audio_name", (ROWS,), "S1000000"),
    "names of any length": dataset("audio_name", (ROWS,), h5py.string_dtype()),
    "10^6 clips": dataset("waveform", (10**6, 320_000), np.int16),
    "a clip of 10^12 samples": dataset("waveform", (ROWS, 10**12), np.int16, chunks=(1, 10**6)),
    "a clip of an hour": dataset("waveform", (ROWS, 115_200_000), np.int16, chunks=(1, 3200), fillvalue=1),
    "no samples": dataset("waveform", (ROWS, 0), np.int16),
    "floats": dataset("waveform", (ROWS, SAMPLES), np.float32),
    "flat": dataset("waveform", (ROWS,), np.int16),
    "compound": dataset("target", (ROWS,), [("a", "i4"), ("b", "f8")]),
    "wide target": dataset("target", (ROWS, 10**9), bool),
    "other columns in teacher": dataset("teacher", (ROWS, 3), np.float16),
    "other rows in teacher": dataset("teacher", (ROWS + 1, 2), np.float16),
    "teacher of texts": dataset("teacher", (ROWS, 2), "S5"),
    "wide embedding": dataset("embedding", (ROWS, 10**8), np.float16),
    "groups of numbers": dataset("group", (ROWS,), np.int32),
    "sample rate of text": attribute("sample_rate", "fast"),
    "sample rate of nan": attribute("sample_rate", np.nan),
    "many sample rates": attribute("sample_rate", np.full(100, 32_000)),
    "labels that are no JSON": attribute("labels", "dog, cat"),
    "deep labels": attribute("labels", "[" * 30_000),
    "labels of numbers": attribute("labels", "[1, 2]"),
    "labels as a number": attribute("labels", 2),
    "one label": attribute("labels", '"dog"'),
    "long label": attribute("labels", json.dumps(["x" * 5000, "y"])),
    "lengths of other clips": attribute("samples", np.ones(ROWS + 1, np.int32)),
    "lengths beyond the clips": attribute("samples", np.full(ROWS, SAMPLES + 1, np.int32)),
    "negative lengths": attribute("samples", np.full(ROWS, -1, np.int32)),
    "lengths as text": attribute("samples", "12"),
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What opening each says, in a process that may not take much memory."""
    folder = tmp_path_factory.mktemp("hostile")
    write(folder / "good.h5")
    for name, change in HOSTILE.items():
        (folder / name).mkdir()
        write(folder / name / "hostile.h5")
        with h5py.File(folder / name / "hostile.h5", "r+") as file:
            change(file)
    code = (
        "import json, resource, sys\n"
        "from preprocessing.clips.reader import ClipFile\n"
        "ClipFile(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({ADDRESS_SPACE}, {ADDRESS_SPACE}))\n"
        "said = []\n"
        "for path in sys.argv[2:]:\n"
        "    try: ClipFile(path); said.append('was opened')\n"
        "    except Exception as error: said.append(f'{type(error).__name__} {error}')\n"
        "print(json.dumps(said))"
    )
    paths = [str(folder / name / "hostile.h5") for name in HOSTILE]
    command = [sys.executable, "-c", code, str(folder / "good.h5"), *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(zip(HOSTILE, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(messages: dict[str, str], name: str) -> None:
    assert messages[name].startswith("ClipFileError ")
    assert "hostile.h5: " in messages[name]
    assert "\n" not in messages[name]
    assert len(messages[name]) < 600


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    write(tmp_path / "clips.h5")
    with h5py.File(tmp_path / "clips.h5", "r+") as file:
        file["audio_name"][0] = b"\xff\x1b"
    assert ClipFile(tmp_path / "clips.h5").audio_names()[0] == "\\xff\x1b"


def test_a_writer_follows_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "clips.h5.part").mkdir()
    (tmp_path / "clips.h5.part" / "waveform").symlink_to(victim)
    with pytest.raises(OSError):
        ClipWriter(tmp_path / "clips.h5", ["a"], samples=SAMPLES)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "other.h5.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClipFileError, match=r"other\.h5\.part: is a link"):
        ClipWriter(tmp_path / "other.h5", ["a"], samples=SAMPLES)
    assert victim.read_text() == "precious"
    assert not list((tmp_path / "elsewhere").iterdir())


def npy(shape: str, dtype: str = "<f8", data: bytes = bytes(8)) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (63 - (10 + len(header)) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    "entry",
    [
        npy("(10**12,)"),
        npy("(1000000000000,)"),
        npy("(1000000,1000000)"),
        npy("(2,)"),
        npy("(-1,)"),
        npy("(1,)", "|O"),
        npy("(1,)", "<U9"),
        npy("()"),
        b"",
        b"\x93NUMPY\x09\x00",
        b"pickled",
    ],
)
def test_hostile_arrays_are_refused(tmp_path: Path, entry: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scores.npy", entry)
    reset_peak()
    before = peak()
    with pytest.raises(ValueError) as error:
        read_npz(tmp_path / "x.npz", "scores", "f", 1)
    assert "\n" not in str(error.value)
    assert peak() - before < 50 * 2**20


def test_a_packed_array_may_not_be_larger_than_wanted(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", scores=np.zeros(10**6))
    assert (read_npz(tmp_path / "x.npz", "scores", "f", 1) == 0).all()
    with pytest.raises(ValueError, match="8,000,000 bytes, at most 1,000 are read"):
        read_npz(tmp_path / "x.npz", "scores", "f", 1, most_bytes=1000)
    with pytest.raises(KeyError):
        read_npz(tmp_path / "x.npz", "other", "f", 1)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:500])
    with pytest.raises(ValueError, match="damaged"):
        read_npz(tmp_path / "cut.npz", "scores", "f", 1)
    with pytest.raises(ValueError, match="damaged"):
        read_npz(Path(__file__), "scores", "f", 1)
