"""The real command on real Ray clusters of this machine: what dies, and what is there once all the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.serial import as_bytes, table
from tests.cluster.test_run import poison
from tests.conftest import COMMAND, environment, write_tones
from tests.processes import wait_until

pytestmark = pytest.mark.slow
FILES = 160  # of 10 s: some twenty parts that take half a second each


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_tones(folder, [f"{number:03}.wav" for number in range(FILES)], seconds=10.0)
    (folder / "text.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def expected(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The sorted table of the plain command."""
    folder = tmp_path_factory.mktemp("plain")
    command = [*COMMAND, str(sounds), "--format", "parquet", "-o", str(folder), "--quiet"]
    assert subprocess.run(command, env=environment(), capture_output=True, timeout=300).returncode == 1
    return as_bytes(table(folder / "tags.parquet"))


def start(out: Path, sounds: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """`dcls-tag --ray` on `sounds`, with Ray's files in a folder of the test."""
    command = [*COMMAND, str(sounds), "-o", str(out), *arguments]
    return subprocess.Popen(
        command, env=environment() | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it said on stderr. It must have tagged all but the text."""
    stdout, stderr = process.communicate(timeout=400)
    assert (process.returncode, stdout) == (1, ""), stderr
    assert re.search(r"out: tagged \d+ recordings, ", stderr), stderr  # it came to its end
    return stderr


def done(out: Path) -> int:
    return len(list((out / "done").glob("*.json")))


def check(out: Path, expected: bytes, failed: int = 1) -> dict[str, Any]:
    """All is there, once, with the numbers of the plain command."""
    assert as_bytes(table(out / "tags")) == expected
    assert len(table(out / "failures")) == failed
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert (manifest["tagged"], manifest["failed"]) == (FILES + 1 - failed, failed)
    return manifest


def test_one_machine_tells_what_the_plain_command_tells(tmp_path: Path, sounds: Path, expected: bytes) -> None:
    out = tmp_path / "out"
    errors = finish(start(out, sounds, "--ray", "local", "--jobs", "2", "--embeddings"))
    lines = errors.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["dcls-tag", str(sounds / "text.wav")], ["dcls-tag", str(out)]]
    check(out, expected)
    assert len(set(table(out / "embeddings")["file"].to_pylist())) == FILES


def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path, sounds: Path, expected: bytes) -> None:
    out = tmp_path / "out"
    first = start(out, sounds, "--ray", "local", "--jobs", "2")
    wait_until(lambda: done(out) >= 2, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is False
    before = {path.name for path in (out / "done").glob("*.json")}
    second = start(out, sounds, "--ray", "local", "--jobs", "2")
    assert "continuing: " in finish(second)
    check(out, expected)
    after = {path.name for path in (out / "done").glob("*.json")}
    assert before < after  # what was done stays, and there was more to do


def test_an_interrupted_run_says_so_and_goes_on(tmp_path: Path, sounds: Path, expected: bytes) -> None:
    """SIGTERM, as batch systems send it; Ray has a handler of its own."""
    out = tmp_path / "out"
    first = start(out, sounds, "--ray", "local", "--jobs", "2")
    wait_until(lambda: done(out) >= 2, first)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=200)
    assert first.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1] == "dcls-tag: interrupted; the same command continues there"
    finish(start(out, sounds, "--ray", "local", "--jobs", "2"))
    check(out, expected)


def test_a_file_that_aborts_its_decoder_costs_itself(tmp_path: Path, sounds: Path) -> None:
    out = tmp_path / "out"
    path = os.pathsep.join([str(poison(tmp_path, "003.wav")), environment()["PYTHONPATH"], *sys.path])
    errors = finish(start(out, sounds, "--ray", "local", "--jobs", "2", PYTHONPATH=path))
    assert f"{sounds / '003.wav'}: the decoder crashed on it (SIGABRT)" in errors
    failed = table(out / "failures")["file"].to_pylist()
    assert failed == [str(sounds / "003.wav"), str(sounds / "text.wav")]
    assert len(set(table(out / "tags")["file"].to_pylist())) == FILES - 1


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and two other nodes, of a core each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    running = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        running.add_node(num_cpus=1)
    running.wait_for_nodes()
    yield running
    running.shutdown()


@pytest.mark.parametrize("what", ["node", "actors"])
def test_what_dies_in_the_middle_costs_nothing(
    cluster: Any, tmp_path: Path, sounds: Path, expected: bytes, what: str
) -> None:
    out = tmp_path / "out"
    process = start(out, sounds, "--ray", cluster.address)
    wait_until(lambda: done(out) >= 2, process)
    if what == "node":
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    else:
        victims = actors()
        assert victims
        os.kill(victims[0], signal.SIGKILL)
    finish(process)
    check(out, expected)


def actors() -> list[int]:
    """Processes of Ray's actors that tag; Ray writes into their command line what they are."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::MapWorker(MapBatches(_Actor))" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it is gone
            continue
    return found
