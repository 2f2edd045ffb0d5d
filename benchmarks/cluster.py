"""dcls-tag --ray against the plain command: python benchmarks/cluster.py [--part rate|memory]

rate: clips a second with 1 and 2 workers, both commands in turns in one run. Each is timed on a folder and on one three
times as large; the difference is the rate, what remains is the start. The clips are 10 s of noise, FLAC at 32 kHz. The
time to the first result is that of the smaller folder. Core seconds, of all processes that a command starts, count on a
machine that does other work, too.

memory: the peak of driver and actors for a list of 100,000 files of which 2,000 are there, 0.5 s each: what the driver
keeps depends on the inputs, what an actor keeps on its part. The others become rows of the failures' table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "from audioset_dcls.commands.tag import main; main()"]
RATE = 32_000
ACTOR = b"ray::MapWorker(MapBatches(_Actor))"
MB = 1 / 1024


def write_clips(folder: Path, count: int, seconds: float) -> None:
    """Links to a few files: what is read is in the page cache for both commands."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        soundfile.write(folder / f"{number:06}.flac", 0.1 * rng.standard_normal(round(seconds * RATE)), RATE)
    for number in range(20, count):
        os.link(folder / f"{number % 20:06}.flac", folder / f"{number:06}.flac")


def timed(arguments: list[str], out: Path) -> tuple[float, float, float]:
    """Seconds to the first result, seconds of all, and core seconds of all its processes."""
    command, mark = [*COMMAND, *arguments, "-o", str(out), "--quiet"], uuid.uuid4().hex
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DCLS_BENCHMARK": mark}
    began, first = time.perf_counter(), None
    used: dict[int, float] = {}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        if first is None and has_result(out):
            first = time.perf_counter() - began
        used |= core_seconds(mark)
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    assert process.stderr is not None
    if process.returncode:
        raise SystemExit(process.stderr.read())
    return first or seconds, seconds, sum(used.values())


def core_seconds(mark: str) -> dict[int, float]:
    """Of each process that has the mark in its environment, whoever started it."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes():
                cells = (path / "stat").read_text().rpartition(")")[2].split()
                found[int(path.name)] = (int(cells[11]) + int(cells[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return found


def has_result(out: Path) -> bool:
    journal = out / "dcls-tag.journal"
    with_lines = journal.is_file() and journal.read_bytes().count(b"\n") > 1
    return with_lines or next((out / "done").glob("*.json"), None) is not None


def rate(folder: Path, clips: int) -> None:
    write_clips(folder / "few", clips, 10)
    write_clips(folder / "many", 3 * clips, 10)
    print("workers  command  clips/s  ms of a core a clip  of plain  start: wall  core s  first result")
    for workers in ("1", "2"):
        plain = 0.0
        for name, options in (("plain", []), ("--ray", ["--ray", "local"])):
            runs = [
                timed([str(folder / size), "--jobs", workers, *options], folder / f"{name}_{workers}_{size}")
                for size in ("few", "many")
            ]
            (first, few, few_cores), (_, many, many_cores) = runs
            a_second, cost = 2 * clips / (many - few), (many_cores - few_cores) / (2 * clips)
            plain = plain or cost
            print(
                f"{workers:<8} {name:<8} {a_second:7.1f}  {cost * 1e3:19.1f}  {cost / plain:8.2f}"
                f"  {few - clips / a_second:9.1f} s  {few_cores - clips * cost:6.1f}  {first:10.1f} s",
                flush=True,
            )


def memory(folder: Path, inputs: int, there: int) -> None:
    write_clips(folder / "there", there, 0.5)
    step = inputs // there
    with (folder / "list.csv").open("w") as file:
        file.write("path\n")
        for number in range(inputs):
            name = f"there/{number // step:06}" if number % step == 0 else f"missing/{number:06}"
            file.write(f"{folder}/{name}.flac\n")
    arguments = [str(folder / "list.csv"), "--ray", "local", "--jobs", "2", "-o", str(folder / "out"), "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=nowhere, stderr=nowhere)
    highest: dict[int, int] = {}
    while True:
        for pid in actors():
            highest[pid] = max(highest.get(pid, 0), peak(pid))
        done, _, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    actor = max(highest.values(), default=0)
    print(f"{inputs:,} inputs, {there:,} of them there: {seconds:.0f} s")
    print(
        f"driver {usage.ru_maxrss * MB:.0f} MB, the larger of {len(highest)} actors {actor * MB:.0f} MB, at their peak"
    )


def actors() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if ACTOR in path.read_bytes():
                yield int(path.parent.name)
        except OSError:
            continue


def peak(pid: int) -> int:
    """kB that a process had at once."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="append", choices=("rate", "memory"))
    parser.add_argument("--clips", type=int, default=600, help="in the smaller folder (default: 600)")
    parser.add_argument("--inputs", type=int, default=100_000, help="in the list (default: 100000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if "rate" in (arguments.part or ["rate"]):
            rate(Path(name), arguments.clips)
        if "memory" in (arguments.part or ["memory"]):
            memory(Path(name), arguments.inputs, min(2000, arguments.inputs))


if __name__ == "__main__":
    main()
