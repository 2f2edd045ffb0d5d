"""What lists, shards and URIs name, and the lines for those that name nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioset_dcls.cluster.folder import name_hash, without
from audioset_dcls.cluster.inputs import Input, InputError, find_inputs
from tests.conftest import write_tones


def found(*texts: Path | str) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    return [one.name for one in find_inputs(map(str, texts), problems)], problems


def test_lists_name_files_beside_them_and_anywhere(tmp_path: Path) -> None:
    rows = ["path,label", "x.wav,1", "/y.wav,2", "s3://bucket/z.flac,3", "shard.tar,4"]
    (tmp_path / "a.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    (tmp_path / "a.txt").write_text("x.wav\n\n  ü 音.wav  \n", encoding="utf-8")
    pq.write_table(pa.table({"n": [1, 2], "url": ["gs://b/x.wav", "deep/x.wav"]}), tmp_path / "a.parquet")
    assert found(tmp_path / "a.csv") == (
        [f"{tmp_path}/x.wav", "/y.wav", "s3://bucket/z.flac", f"{tmp_path}/shard.tar"],
        [],
    )
    assert found(tmp_path / "a.txt") == ([f"{tmp_path}/x.wav", f"{tmp_path}/ü 音.wav"], [])
    assert found(tmp_path / "a.parquet") == (["gs://b/x.wav", f"{tmp_path}/deep/x.wav"], [])
    assert found(f"file://{tmp_path}/a.csv")[0][0] == f"file://{tmp_path}/x.wav"


def test_globs_of_shards_and_folders_of_sounds(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    write_tones(tmp_path / "in", ["a.wav"])
    assert found(tmp_path / "*.tar", tmp_path / "in") == (
        [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar", f"{tmp_path}/in/a.wav"],
        [],
    )
    assert [one.kind for one in find_inputs([f"{tmp_path}/a.tar"], [])] == ["tar"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"id,name\n1,2\n", "has no column path or file or uri or url"),
        ("a.csv", b"", r"its columns: none"),
        ("a.csv", b"path\n\xff\xff\n", "a.csv: "),
        ("a.csv", b"path\n\n" + b"x" * 5000 + b"\n", "expected a path or URI"),
        ("a.txt", b"\xff\xfe\x00", "is no text"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
    ],
)
def test_a_list_that_is_none_is_one_line_and_the_rest_goes_on(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (tone,) = write_tones(tmp_path, ["tone.wav"])
    names, problems = found(tmp_path / name, tone)
    assert names == [str(tone)]
    (problem,) = problems
    assert name in problem
    assert said in problem
    assert "\n" not in problem


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    names, problems = found(tmp_path / "*.tar", tmp_path / "missing.csv", f"file://{tmp_path}/*.tar", "odd://x/y.wav")
    assert (names, len(problems)) == (["odd://x/y.wav"], 3) or (names, len(problems)) == ([], 4)
    with pytest.raises(InputError, match="stdin"):
        found("-")


def test_each_input_once_and_none_that_is_done() -> None:
    inputs = [Input(name, "file") for name in ("a", "b", "a", "c", "\udcff")]
    done = np.array(sorted([name_hash("b"), name_hash("\\udcff")]), np.uint64)
    assert [one.name for one in without(inputs, done)] == ["a", "c"]
    assert [one.name for one in without(inputs, np.empty(0, np.uint64))] == ["a", "b", "c", "\udcff"]
