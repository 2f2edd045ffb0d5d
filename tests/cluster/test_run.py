"""Runs with real workers in this process: what they write, how they go on, and that each recording is there once."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioset_dcls.cluster.folder import Folder, FolderError
from audioset_dcls.cluster.run import Summary, run
from audioset_dcls.cluster.worker import Worker
from audioset_dcls.tagging.outputs import Outputs, UsageError
from audioset_dcls.tagging.results import Options
from audioset_dcls.tagging.tagger import Tagger
from tests.cluster.serial import Serial, as_bytes, table
from tests.conftest import RECORDINGS, write_tones
from tests.test_imports import write_tagger


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tagger:
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    write_tagger(path)
    return Tagger(path, jobs=1)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Eight tones, a text that is called like one, and a folder with the date in a name."""
    write_tones(tmp_path / "in", [f"{number}.wav" for number in range(7)])
    write_tones(tmp_path / "in" / "deep", ["A_20230102_030405.wav"])
    (tmp_path / "in" / "text.wav").write_text("no sound")
    return tmp_path / "in"


def tag(
    tiny: Tagger, out: Path, *inputs: Path | str, engine: Serial | None = None, part_size: int = 2, **outputs: Any
) -> Summary:
    resume = outputs.pop("resume", True)
    start: Callable[[], Any] = lambda: engine or Serial()  # noqa: E731
    asked = Outputs(("parquet",), out, **outputs)
    return run(list(map(str, inputs)), tiny, Options(), asked, start, resume, quiet=True, part_size=part_size)


def plain(tiny: Tagger, out: Path, *inputs: Path | str, **outputs: Any) -> None:
    from audioset_dcls.tagging.job import run as run_here
    from audioset_dcls.tagging.recordings import find_recordings

    run_here(
        find_recordings(list(map(str, inputs))), tiny, Options(), Outputs(("parquet",), out, **outputs), quiet=True
    )


@pytest.mark.parametrize("timeline", [False, True])
def test_the_rows_are_those_of_dcls_tag(tiny: Tagger, tmp_path: Path, sounds: Path, timeline: bool) -> None:
    summary = tag(tiny, tmp_path / "out", sounds, RECORDINGS / "cow.ogg", timeline=timeline)
    plain(tiny, tmp_path / "plain", sounds, RECORDINGS / "cow.ogg", timeline=timeline)
    assert (summary.tagged, summary.failed, summary.exit_status) == (9, 1, 1)
    ours = table(tmp_path / "out" / ("events" if timeline else "tags"))
    assert as_bytes(ours) == as_bytes(table(tmp_path / "plain" / "tags.parquet"))
    assert any("2023-01-02T03:04:05" in time for time in ours["time"].to_pylist())
    (failure,) = table(tmp_path / "out" / "failures").to_pylist()
    assert failure["file"] == str(sounds / "text.wav")
    assert failure["error"].startswith(f"{sounds / 'text.wav'}: ")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert (manifest["recordings"], manifest["tagged"], manifest["failed"]) == (10, 9, 1)
    assert manifest["settings"]["threshold"] == 0.2


def test_embeddings(tiny: Tagger, tmp_path: Path, sounds: Path) -> None:
    tag(tiny, tmp_path / "out", sounds, embeddings=True)
    rows = table(tmp_path / "out" / "embeddings").to_pylist()
    assert len(rows) == 8
    for row in rows:
        assert row["start"] == 0
        assert row["embedding"] == pytest.approx(tiny(row["file"]).embeddings[0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("{}/shard-0.tar", "{}/shard-0.tar/"),
        ("{}/mirror.parquet", "{}/mirror.parquet/"),
        ("{}/uris.parquet", "file://{}/in/"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("file://{}/shard-0.tar", "file://{}/shard-0.tar/"),
                ("{}/list.csv", "{}/in/"),
                ("{}/list.txt", "{}/in/"),
                ("file://{}/in", "file://{}/in/"),
            )
        ),
    ],
)
def test_shards_lists_and_uris_give_the_same_rows(
    tiny: Tagger, tmp_path: Path, sounds: Path, name: str, prefix: str
) -> None:
    prefix, files = prefix.format(tmp_path), sorted(sounds.rglob("*.wav"))
    with tarfile.open(tmp_path / "shard-0.tar", "w") as shard:
        for path in files:
            shard.add(path, path.name)
            about = tarfile.TarInfo(f"{path.stem}.json")
            about.size = 2
            shard.addfile(about, io.BytesIO(b"{}"))
    audio = [{"bytes": path.read_bytes(), "path": None} for path in files]
    mirror = {"video_id": [path.name for path in files], "audio": audio, "labels": [["/m/09x0r"]] * len(files)}
    pq.write_table(pa.table(mirror), tmp_path / "mirror.parquet")
    (tmp_path / "list.csv").write_text("id,file\n" + "".join(f"1,{path.relative_to(tmp_path)}\n" for path in files))
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in files))
    pq.write_table(pa.table({"uri": [f"file://{path}" for path in files]}), tmp_path / "uris.parquet")
    summary = tag(tiny, tmp_path / "out", name.format(tmp_path))
    plain(tiny, tmp_path / "plain", sounds)

    def rows(table: pa.Table) -> list[dict[str, Any]]:
        """By the last part of their file's name."""
        kept = [row | {"file": row["file"].rpartition("/")[2]} for row in table.to_pylist()]
        return sorted(kept, key=lambda row: (row["file"], row["label"]))

    assert (summary.tagged, summary.failed) == (8, 1)
    ours = table(tmp_path / "out" / "tags")
    assert all(file.startswith(prefix) for file in ours["file"].to_pylist())
    assert rows(ours) == rows(table(tmp_path / "plain" / "tags.parquet"))
    (failure,) = table(tmp_path / "out" / "failures").to_pylist()
    assert failure["file"] == f"{prefix}text.wav"
    assert failure["error"].startswith(f"{prefix}text.wav: ")
    assert "dcls-tag-" not in failure["error"]  # the folder where it lay meanwhile
    again = tag(tiny, tmp_path / "out", name.format(tmp_path))
    assert (again.tagged, again.failed, again.resumed) == (0, 0, 9)


def test_a_killed_run_goes_on_and_repeats_nothing(tiny: Tagger, tmp_path: Path, sounds: Path) -> None:
    class Killed(BaseException):
        pass

    def die(worker: Worker, number: int) -> None:
        if number == 2:
            # as a kill in the middle of a part leaves it: a table without a marker, and an unfinished one
            shutil.copy(
                next((out / "tags").glob("*.parquet")), worker.folder.table("tags", f"part-{worker.job.token}-x")
            )
            (out / "tags" / ".part-y.parquet.unfinished").write_bytes(b"half")
            raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        tag(tiny, out, sounds, engine=Serial(die))
    before = {path.name: path.stat().st_mtime_ns for path in (out / "done").iterdir()}
    assert len(before) == 2
    assert json.loads((out / "manifest.json").read_text())["complete"] is False
    write_tones(sounds, ["0_new.wav"])  # sorts before what is done
    summary = tag(tiny, out, sounds)
    files = table(out / "tags")["file"].to_pylist() + table(out / "failures")["file"].to_pylist()
    assert sorted(set(files)) == sorted(map(str, sounds.rglob("*.wav")))
    assert summary.tagged + summary.failed == 10 - summary.resumed
    assert {path.name: path.stat().st_mtime_ns for path in (out / "done").iterdir()}.items() >= before.items()
    rows = table(out / "tags")
    assert len(rows.group_by(["file", "label"]).aggregate([])) == len(rows)  # none twice
    assert not list((out / "tags").glob(".*"))

    idle = Serial()
    again = tag(tiny, out, sounds, engine=idle)
    assert (again.tagged, again.failed, idle.parts) == (0, 0, [])
    assert as_bytes(table(out / "tags")) == as_bytes(rows)


def test_what_a_worker_of_an_earlier_run_still_finishes_is_thrown_away(
    tiny: Tagger, tmp_path: Path, sounds: Path
) -> None:
    out = tmp_path / "out"
    workers: list[Worker] = []

    def next_run_begins(worker: Worker, number: int) -> None:
        if number == 4:
            workers.append(worker)
            manifest = json.loads((out / "manifest.json").read_text())
            Folder(out).write_manifest(manifest | {"token": "another"})
            assert worker.part(number).tagged == 0
            Folder(out).write_manifest(manifest)

    summary = tag(tiny, out, sounds, engine=Serial(next_run_begins))
    assert workers
    assert summary.tagged + summary.failed == 9  # by the part's second call
    rows = table(out / "tags")
    assert len(rows.group_by(["file", "label"]).aggregate([])) == len(rows)


def test_a_part_that_is_lost_is_tried_again_but_not_for_ever(tiny: Tagger, tmp_path: Path, sounds: Path) -> None:
    class Losing(Serial):
        def _done(self, worker: Worker, parts: Any) -> Any:
            self.rounds = getattr(self, "rounds", 0) + 1
            return super()._done(worker, [number for number in parts if number != 1])

    engine = Losing()
    summary = tag(tiny, tmp_path / "out", sounds, engine=engine)
    assert (engine.rounds, summary.lost, summary.exit_status) == (3, 1, 1)
    assert summary.tagged + summary.failed == 7
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"] is False
    assert tag(tiny, tmp_path / "out", sounds).tagged == 2


def test_what_cannot_be_written_is_told(
    tiny: Tagger, tmp_path: Path, sounds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_the_way(worker: Worker, number: int) -> None:
        if number == 1:
            worker.folder.table("tags", f"part-{worker.job.token}-{number:07d}").mkdir(parents=True, exist_ok=True)

    summary = tag(tiny, tmp_path / "out", sounds, engine=Serial(in_the_way))
    assert (summary.lost, summary.exit_status) == (1, 1)
    assert f"dcls-tag: {tmp_path / 'out'}: part 1 is lost (IsADirectoryError: " in capsys.readouterr().err


def test_other_settings_are_refused(tiny: Tagger, tmp_path: Path, sounds: Path) -> None:
    out = tmp_path / "out"
    tag(tiny, out, sounds / "0.wav")
    with pytest.raises(FolderError, match=r"out: holds results of another timeline; choose another -o, or --no-resume"):
        tag(tiny, out, sounds / "0.wav", timeline=True)
    assert tag(tiny, out, sounds / "0.wav", timeline=True, resume=False).tagged == 1
    assert not (out / "tags").exists()
    (out / "manifest.json").unlink()
    with pytest.raises(FolderError, match=r"their manifest\.json is gone"):
        tag(tiny, out, sounds / "0.wav")


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (Outputs(), "add -o DIR, a folder that all nodes see"),
        (Outputs(("csv",), Path("out")), "leave out --format"),
        (Outputs(("parquet",), Path("out"), plot=True), "leave out .* --plot"),
    ],
)
def test_what_is_not_for_a_cluster(tiny: Tagger, outputs: Outputs, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(["x.wav"], tiny, Options(), outputs, Serial)


def test_a_file_that_aborts_its_decoder_costs_itself(
    tiny: Tagger, tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(poison(tmp_path, "3.wav")), *sys.path]))
    summary = tag(tiny, tmp_path / "out", sounds)
    errors = {row["file"]: row["error"] for row in table(tmp_path / "out" / "failures").to_pylist()}
    assert errors.keys() == {str(sounds / "text.wav"), str(sounds / "3.wav")}
    assert f"the decoder crashed on it ({signal.SIGABRT.name})" in errors[str(sounds / "3.wav")]
    assert summary.tagged == 7


def poison(folder: Path, name: str) -> Path:
    """A folder for PYTHONPATH: a decoding process that opens a file of this name aborts, as after a failed C check."""
    (folder / "poison").mkdir()
    (folder / "poison" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, arguments):\n"
        f"    if event == 'open' and str(arguments[0]).endswith({f'/{name}'!r}):\n"
        "        os.abort()\n"
        "if any('preprocessing.decoding.process' in one for one in sys.orig_argv):\n"
        "    sys.addaudithook(hook)\n"
    )
    return folder / "poison"
