"""Archives that are damaged or made to harm: a clip of theirs is listed as unreadable, the others are prepared."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from preprocessing.clips.reader import ClipFile
from preprocessing.corpora.archives import MOST_BYTES, ContainerError, Slice, table_rows, tar_members
from preprocessing.corpora.folder import folder_collection
from preprocessing.corpora.prepare import prepare
from tests.memory import peak, reset_peak

ROOT = Path(__file__).parents[3]
MOST_MEMORY = 150 * 2**20  # bytes more than for good clips alone
GOOD = ["aaaaaaaaaaa", "bbbbbbbbbbb"]
EVIL = "eeeeeeeeeee"


def flac() -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(0).normal(0, 0.1, 8000), 32_000, format="FLAC")
    return stream.getvalue()


def member(name: str, data: bytes = b"", size: int | None = None, **fields: Any) -> bytes:
    """A tar header that declares `size` bytes, and the data."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size is not None:
        header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header) + data + bytes(-len(data) % 512)


def tar(*members: bytes) -> bytes:
    good = [member(f"{name}.flac", flac()) for name in GOOD]
    return b"".join([good[0], *members, good[1], bytes(1024)])


def pax(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = 3
    return info.tobuf(tarfile.PAX_FORMAT) + b"abc" + bytes(509)


def bomb() -> bytes:
    return member(f"{EVIL}.flac", bytes(MOST_BYTES + 512))


# what is between two good clips -> what is wrong with it, and whether the archive ends there
TARS: dict[str, tuple[bytes | Callable[[], bytes], str, bool]] = {
    "50 GB": (member(f"{EVIL}.flac", size=50 * 10**9), "declares 50,000,000,000 bytes", True),
    "8 EB": (member(f"{EVIL}.flac", size=8 * 10**18), "declares 8,000,000,000,000,000,000 bytes", True),
    "10^25 bytes": (member(f"{EVIL}.flac", size=10**25), "the rest of the tar", True),
    "negative": (member(f"{EVIL}.flac", size=-1024), "backwards", True),
    "far back": (member(f"{EVIL}.flac", size=-(2**62)), "backwards", True),
    "too large": (bomb, f"declares {MOST_BYTES + 512:,} bytes", False),
    "long name of 50 GB": (member("././@LongLink", size=50 * 10**9, type=b"L"), "a header of it declares", True),
    "attributes of 8 EB": (member("pax", size=8 * 10**18, type=b"x"), "a header of it declares", True),
    "name of 100,000 letters": (pax(f"{'n' * 100_000}/{EVIL}.flac"), "characters", False),
    "name with line feeds": (pax(f"a\nb\x1b[2J/{EVIL}.flac"), "flac", False),
    "noise": (member(f"{EVIL}.flac", bytes(range(256)) * 4), "flac", False),
    "link": (member(f"{EVIL}.flac", type=b"2", linkname="/etc/passwd"), "", False),
    "device": (member(f"{EVIL}.flac", type=b"3"), "", False),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".tar": lambda data: data,
    ".tar.gz": lambda data: gzip.compress(data, 1),
    ".tar.bz2": lambda data: bz2.compress(data, 1),
    ".tar.xz": lambda data: lzma.compress(data, preset=0),
}


def prepared(folder: Path, archive: Path) -> tuple[list[str], list[dict[str, str]], int]:
    """Clips and what was left out by the real command, and the memory that it took in bytes."""
    segments = folder / "segments.csv"
    lines = [f'{name}, 0.000, 10.000, "/m/09x0r"' for name in [*GOOD, EVIL]]
    segments.write_text("\n".join(["# a", "# b", "# c", *lines]))
    code = (
        "import resource, sys\nfrom audioset_dcls.commands.prepare import main\n"
        "from tests.memory import peak\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
        "    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024\n"
        "    print(max(peak(), children), file=sys.stderr)"
    )
    arguments = ["audioset", str(archive), "--segments", str(segments), "-o", str(folder / "out.h5"), "-j", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *said, memory = done.stderr.splitlines()
    assert all(line.startswith("dcls-prepare: ") for line in said), done.stderr
    with (folder / "out.left_out.csv").open(newline="") as file:
        left_out = list(csv.DictReader(file))
    return ClipFile(folder / "out.h5").audio_names(), left_out, int(memory)


@pytest.fixture(scope="module")
def memory_of_good_clips(tmp_path_factory: pytest.TempPathFactory) -> int:
    folder = tmp_path_factory.mktemp("good")
    (folder / "audio.tar").write_bytes(tar())
    clips, left_out, memory = prepared(folder, folder / "audio.tar")
    assert (len(clips), [row["reason"] for row in left_out]) == (2, ["missing"])
    return memory


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *((name, ".tar") for name in list(TARS)[:4]),
        *(pytest.param(name, ".tar", marks=pytest.mark.slow) for name in list(TARS)[4:]),
        *(
            pytest.param(name, ".tar.gz", marks=pytest.mark.slow)
            for name in ("8 EB", "too large", "attributes of 8 EB", "far back")
        ),
    ],
)
def test_tars_through_the_command(tmp_path: Path, memory_of_good_clips: int, name: str, suffix: str) -> None:
    made, said, ends = TARS[name]
    archive = tmp_path / f"audio{suffix}"
    archive.write_bytes(PACKED[suffix](tar(made() if callable(made) else made)))
    clips, left_out, memory = prepared(tmp_path, archive)
    assert clips == [f"Y{clip}.wav" for clip in (GOOD[:1] if ends else GOOD)]
    unreadable = [row for row in left_out if row["reason"] == "unreadable"]
    if said:
        assert said in str(unreadable)
        assert all(len(value) < 1000 and value.isprintable() for row in left_out for value in row.values())
    else:
        assert unreadable == []
    assert memory < memory_of_good_clips + MOST_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".tar.bz2", ".tar.xz"])
def test_a_bomb_in_other_packings(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"audio{suffix}"
    path.write_bytes(PACKED[suffix](tar(bomb())))
    reset_peak()
    before = peak()
    members = list(tar_members(path, lambda name: True))
    assert peak() - before < 100 * 2**20
    assert [bool(found.problem) for found in members] == [False, True, False]
    assert [found.audio for found in members] == [flac(), None, flac()]


def test_a_slice_is_there_or_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abcdef")
    assert Slice(str(tmp_path / "x"), 1, 3).read() == b"bcd"
    with pytest.raises(OSError, match="in the middle"):
        Slice(str(tmp_path / "x"), 1, 10**15).read()


def table(path: Path, ids: Any, audio: Any = None, labels: Any = None, **options: Any) -> Path:
    columns = {
        "video_id": ids,
        "audio": audio or [{"bytes": flac(), "path": "x"}] * len(ids),
        "labels": labels or [["/m/09x0r"]] * len(ids),
    }
    pq.write_table(pa.table(columns), path, **options)
    return path


IDS = [GOOD[0], EVIL, GOOD[1]]


def large_cell(path: Path) -> Path:
    audio = [{"bytes": data, "path": "x"} for data in (flac(), bytes(400 * 10**6), flac())]
    return table(path, IDS, audio)


ROWS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "400 MB": (large_cell, "has 400,000,000 bytes"),
    "id with a line feed": (lambda path: table(path, [GOOD[0], "a\nb\x1b[2J", GOOD[1]]), "its id is no name"),
    "id of 100,000 letters": (lambda path: table(path, [GOOD[0], "n" * 100_000, GOOD[1]]), "its id is no name"),
    "no id": (lambda path: table(path, [GOOD[0], None, GOOD[1]]), "its id is no name"),
    "id of bytes": (
        lambda path: table(path, pa.array([GOOD[0].encode(), b"\xff\xfe", GOOD[1].encode()]).view(pa.string())),
        "its id or labels are no text",
    ),
    "labels of 100,000 letters": (
        lambda path: table(path, IDS, labels=[["/m/09x0r"], ["n" * 100_000], ["/m/09x0r"]]),
        "labels are not of the 527 classes",
    ),
    "no labels": (lambda path: table(path, IDS, labels=[["/m/09x0r"], None, ["/m/09x0r"]]), "labels are not of"),
}


@pytest.mark.parametrize(
    "name", [*list(ROWS)[1:3], *(pytest.param(name, marks=pytest.mark.slow) for name in ("400 MB", *list(ROWS)[3:]))]
)
def test_rows_of_a_table_through_the_command(tmp_path: Path, name: str) -> None:
    make, said = ROWS[name]
    output = tmp_path / "out.h5"
    command = [
        sys.executable,
        "-c",
        "from audioset_dcls.commands.prepare import main; main()",
        "audioset",
        str(make(tmp_path / "x.parquet")),
    ]
    done = subprocess.run(
        [*command, "-o", str(output), "-j", "1"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("dcls-prepare: ") for line in done.stderr.splitlines()), done.stderr
    assert ClipFile(output).audio_names() == [f"Y{clip}.wav" for clip in GOOD]
    with output.with_suffix(".left_out.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["reason"] == "unreadable"
    assert said in row["detail"]
    assert all(len(value) < 1000 and value.isprintable() for value in row.values())


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"video_id": [1, 2, 3]}, "its column video_id holds int64"),
        ({"video_id": [b"a", b"b", b"c"]}, "its column video_id holds binary"),
        ({"labels": ["/m/09x0r"] * 3}, "its column labels holds string"),
        ({"labels": [[1]] * 3}, "its column labels holds list"),
        ({"audio": [b"x"] * 3}, "its column audio holds binary"),
        ({"audio": [{"path": "x"}] * 3}, "its column audio holds struct"),
        ({"audio": [{"bytes": "x"}] * 3}, "its column audio holds struct"),
        ({"video_id": None}, "lacks the columns video_id"),
        ({"video_id": ["n" * 5_000_000] * 3}, "its ids or labels take"),
    ],
)
def test_tables_of_other_columns(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    whole = {"video_id": IDS, "audio": [{"bytes": b"x", "path": "x"}] * 3, "labels": [["/m/09x0r"]] * 3} | columns
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({name: values for name, values in whole.items() if values is not None}), path)
    with pytest.raises(ContainerError, match=said):
        list(table_rows(path))


def test_damaged_pages_cost_their_rows(tmp_path: Path) -> None:
    audio = [{"bytes": bytes([number]) * 5000, "path": "x"} for number in range(3)]
    path = table(tmp_path / "x.parquet", IDS, audio, row_group_size=1, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    place = content.index(bytes([1]) * 5000)
    content[place - 12 : place] = b"\xff" * 12  # the end of the page's header
    path.write_bytes(content)
    rows = list(table_rows(path))
    read = [row.audio for row in rows]
    assert read[0] is not None
    assert read[1] is not None
    assert read[2] is not None
    assert read[0]() == bytes(5000)
    with pytest.raises(OSError, match=r"^cannot be read from x\.parquet: [^\n]*$"):
        read[1]()
    assert read[2]() == bytes([2]) * 5000


def test_names_in_a_list_of_files(tmp_path: Path) -> None:
    (tmp_path / "good.flac").write_bytes(flac())
    with (tmp_path / "list.csv").open("w", newline="") as file:
        rows = [["file", "labels"], ["good.flac", "a"], ["x\ny.flac", "a"], ["n" * 100_000, "a"]]
        csv.writer(file).writerows(rows)
    made = prepare(folder_collection(tmp_path / "list.csv"), tmp_path / "out.h5", workers=1)
    assert made.clip_count == 1
    assert made.left_out["unreadable"] == 2
    with made.left_out_csv.open(newline="") as file:
        assert [row["clip"][:6] for row in csv.DictReader(file)] == ["x\\ny.f", "nnnnnn"]
