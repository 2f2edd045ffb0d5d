"""Runs over folders: what is written where, and what a kill, a full disk or Ctrl-C leave."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audioset_dcls.tagging.journal import NAME
from preprocessing.audio import read_audio
from tests.conftest import COMMAND, RECORDINGS, environment, first_labels, write_tones
from tests.processes import line_count, wait_until

Here = Callable[..., tuple[int, str, str]]
Command = Callable[..., subprocess.CompletedProcess[str]]

SUFFIXES_OF_ITS_OWN = (".audacity.txt", ".npy", ".png")


no_memory_file = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux has it")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tones(tmp_path / "in", ["a.wav", "b.wav"])
    write_tones(tmp_path / "in" / "c", ["a.wav"], 12)
    return tmp_path / "in"


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_combined_and_own_files(folder: Path, tmp_path: Path, tag_here: Here) -> None:
    out = tmp_path / "out"
    status, stdout, err = tag_here(folder, "-o", out, "--format", "csv,json,raven", "--embeddings", "--plot")
    assert (status, stdout) == (0, "")
    own = {f"{name}{suffix}" for name in ("a.wav", "b.wav", "c/a.wav") for suffix in (".raven.txt", ".npy", ".png")}
    assert written(out) == {"tags.csv", "tags.json", "tags.raven.txt"} | own
    assert "tagged 3 of 3 recordings" in err
    assert [record["file"] for record in json.loads((out / "tags.json").read_text())] == [
        str(folder / name) for name in ("a.wav", "b.wav", "c/a.wav")
    ]
    assert np.load(out / "c" / "a.wav.npy").shape == (2, 320)
    assert (out / "a.wav.png").read_bytes().startswith(b"\x89PNG")


def test_one_file_a_recording(folder: Path, tmp_path: Path, tag_here: Here) -> None:
    tag_here(folder, "-o", tmp_path / "out", "--format", "csv,table", "--separate", "--threshold", "0.001")
    names = ("a.wav", "b.wav", "c/a.wav")
    assert written(tmp_path / "out") == {f"{name}{suffix}" for name in names for suffix in (".csv", ".txt")}
    (row, *_) = csv.DictReader((tmp_path / "out" / "c" / "a.wav.csv").read_text().splitlines())
    assert row["file"] == str(folder / "c" / "a.wav")


def test_the_same_tags_in_every_format(tmp_path: Path, tag_here: Here) -> None:
    file = RECORDINGS / "cow.ogg"
    label = first_labels()["cow.ogg"]
    assert f"  {label}\n" in tag_here(file)[1]
    assert json.loads(tag_here(file, "--format", "json")[1])[0]["tags"][0]["label"] == label
    assert next(csv.DictReader(tag_here(file, "--format", "csv")[1].splitlines()))["label"] == label
    assert label in tag_here(file, "--format", "audacity")[1].splitlines()[0].split("\t")[2]
    assert tag_here(file, "--format", "raven")[1].splitlines()[1].split("\t")[9] == label


def test_the_same_run_writes_the_same_bytes(folder: Path, tmp_path: Path, tag_here: Here) -> None:
    for out in ("1", "2"):
        tag_here(folder, RECORDINGS, "-o", tmp_path / out, "--format", "csv,jsonl", "--jobs", out)
    for name in ("tags.csv", "tags.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_failures_are_tried_again(folder: Path, tmp_path: Path, tag_here: Here) -> None:
    """What was tagged is kept, what failed is tried again, and the result is what one run would have given."""
    command = (folder, "-o", tmp_path / "out", "--format", "jsonl")
    content = (folder / "a.wav").read_bytes()
    (folder / "a.wav").write_bytes(b"broken")
    status, _, err = tag_here(*command)
    assert status == 1
    assert "a.wav" in err
    assert (tmp_path / "out" / NAME).exists()
    (folder / "a.wav").write_bytes(content)
    status, _, err = tag_here(*command)
    assert status == 0
    assert "continuing: 2 of 3 are done" in err
    records = [json.loads(line) for line in (tmp_path / "out" / "tags.jsonl").read_text().splitlines()]
    assert [record["file"] for record in records] == [str(folder / name) for name in ("a.wav", "b.wav", "c/a.wav")]
    assert not (tmp_path / "out" / NAME).exists()


def start(tagger_file: Path, cwd: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [*COMMAND, "--model", str(tagger_file), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def hold_up(path: Path) -> None:
    """Put a pipe that nobody writes to in a recording's place: a run cannot end before it is stopped."""
    path.unlink()
    os.mkfifo(path)


def test_kill_and_the_same_command(tagger_file: Path, tmp_path: Path) -> None:
    """kill -9 twice in the middle, then the same command: every recording once, each like in a run without a kill."""
    names = [f"in/{number:03}.wav" for number in range(80)]
    write_tones(tmp_path / "in", [Path(name).name for name in names])
    last = (tmp_path / names[-1]).read_bytes()
    hold_up(tmp_path / names[-1])
    arguments = (*names, "-o", "out", "--format", "jsonl,csv,audacity")
    for count in (8, 25):
        run = start(tagger_file, tmp_path, *arguments)
        wait_until(lambda: line_count(tmp_path / "out" / NAME) > count, run)  # noqa: B023
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL
        assert not (tmp_path / "out" / "tags.jsonl").exists()
    (tmp_path / names[-1]).unlink()
    (tmp_path / names[-1]).write_bytes(last)
    run = start(tagger_file, tmp_path, *arguments)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "continuing" in err
    once = start(tagger_file, tmp_path, *names, "-o", "once", "--format", "jsonl,csv,audacity")
    once.communicate(timeout=120)
    assert written(tmp_path / "out") == written(tmp_path / "once")
    for name in written(tmp_path / "once"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()
    records = (tmp_path / "out" / "tags.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in records] == names


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt(signal_number: signal.Signals, tagger_file: Path, tmp_path: Path) -> None:
    """One line, 128 + the signal, and the files of what was done."""
    names = [f"in/{number:03}.wav" for number in range(40)]
    write_tones(tmp_path / "in", [Path(name).name for name in names], 3)
    hold_up(tmp_path / names[-1])
    run = start(tagger_file, tmp_path, *names, "-o", "out", "--format", "csv")
    wait_until(lambda: line_count(tmp_path / "out" / NAME) > 5, run)
    run.send_signal(signal_number)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 128 + signal_number
    assert err.splitlines()[-1].startswith("dcls-tag: interrupted")
    assert "Traceback" not in err
    files = {row["file"] for row in csv.DictReader((tmp_path / "out" / "tags.csv").read_text().splitlines())}
    assert files <= set(names)
    assert len((tmp_path / "out" / NAME).read_bytes().splitlines()) > 5


def test_full_disk(folder: Path, dcls_tag: Command, tmp_path: Path) -> None:
    """stdout on a full device, and a folder that cannot be written: one line each, exit status 1."""
    with Path("/dev/full").open("w") as full:
        done = dcls_tag(folder, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["dcls-tag: stdout: cannot be written: No space left on device"]
    (tmp_path / "file").touch()
    done = dcls_tag(folder, "-o", tmp_path / "file" / "out")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line


@pytest.mark.slow
def test_a_disk_that_fills_up_while_running(folder: Path, tmp_path: Path, tagger_file: Path) -> None:
    """A limit on file size stands for the disk: the journal ends with whole lines, the message is one line."""
    write_tones(folder, [f"{number:03}.wav" for number in range(60)], 0.3)
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 32; exec "$@"', "bash", *COMMAND]
    arguments = [
        "--model",
        str(tagger_file),
        str(folder),
        "-o",
        str(tmp_path / "out"),
        "--threshold",
        "0.001",
        "--top",
        "50",
    ]
    done = subprocess.run([*limited, *arguments], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    lines = (tmp_path / "out" / NAME).read_bytes().splitlines(keepends=True)
    assert len(lines) > 1
    assert all(json.loads(line) for line in lines)
    assert lines[-1].endswith(b"\n")
    done = subprocess.run([*COMMAND, *arguments], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert f"continuing: {len(lines) - 1} of 63" in done.stderr


def test_a_decoder_that_kills_its_process(folder: Path, dcls_tag: Command, tmp_path: Path) -> None:
    """abort() in the process that opens `killer.wav`, as a failed check in a C library does it."""
    write_tones(folder, ["killer.wav"])
    (tmp_path / "start_up").mkdir()
    (tmp_path / "start_up" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "sys.addaudithook(lambda event, args: event == 'open' and 'killer' in str(args[0]) and os.abort())\n"
    )
    path = os.pathsep.join([str(tmp_path / "start_up"), environment()["PYTHONPATH"]])
    command = ("in", "--format", "jsonl", "--jobs", "1")
    done = dcls_tag(*command, env=environment() | {"PYTHONPATH": path})
    assert done.returncode == 1, done.stderr
    assert tagged(done.stdout) == ["in/a.wav", "in/b.wav", "in/c/a.wav"]
    complaint, summary = done.stderr.splitlines()
    assert complaint == "dcls-tag: in/killer.wav: the decoder crashed on it (SIGABRT); convert it to WAV or FLAC"
    assert "tagged 3 of 4" in summary
    # with a folder to write to, the next run tries that one alone
    assert dcls_tag(*command, "-o", "out", env=environment() | {"PYTHONPATH": path}).returncode == 1
    again = dcls_tag(*command, "-o", "out")
    assert again.returncode == 0
    assert "continuing: 3 of 4" in again.stderr
    assert "in/killer.wav" in tagged((tmp_path / "out" / "tags.jsonl").read_text())


@no_memory_file
@pytest.mark.parametrize("companions", [[], ["a.wav", "b.wav"]], ids=["alone", "between others"])
def test_a_recording_on_a_bad_sector(companions: list[str], folder: Path, dcls_tag: Command, tmp_path: Path) -> None:
    """A process's memory has no page at 0: reading there fails with EIO, as on a bad sector."""
    (folder / "bad.wav").symlink_to("/proc/self/mem")
    files = [folder / name for name in ["bad.wav", *companions]]
    done = dcls_tag(*files, "--format", "jsonl", "-o", "out")
    assert done.returncode == 1
    complaint = f"dcls-tag: {folder / 'bad.wav'}: cannot be read ([Errno 5] Input/output error); check the disk"
    assert done.stderr.startswith(complaint)
    assert "Traceback" not in done.stderr
    assert tagged((tmp_path / "out" / "tags.jsonl").read_text()) == [str(folder / name) for name in companions]


@no_memory_file
def test_stdin_that_cannot_be_read(folder: Path, dcls_tag: Command) -> None:
    with Path("/proc/self/mem").open("rb", buffering=0) as bad:
        done = dcls_tag("-", folder / "a.wav", "--format", "jsonl", stdin=bad)
    assert done.returncode == 1
    assert tagged(done.stdout) == [str(folder / "a.wav")]
    assert "cannot be read" in done.stderr
    assert "written" not in done.stderr


@pytest.mark.parametrize(
    "outputs",
    [
        ["--format", "csv,audacity"],
        pytest.param(["--plot"], marks=pytest.mark.slow),
        ["--embeddings", "--format", "jsonl"],
    ],
)
def test_a_name_that_leaves_no_room_for_a_suffix(
    outputs: list[str], folder: Path, tmp_path: Path, tag_here: Here
) -> None:
    """240 bytes are enough for every suffix; 252 leave no room, and cost that recording alone."""
    fits, does_not = "f" * 236 + ".wav", "n" * 248 + ".wav"
    write_tones(folder, [fits, does_not])
    status, _, err = tag_here(folder, "-o", tmp_path / "out", *outputs)
    assert status == 1
    (complaint,) = [line for line in err.splitlines() if str(folder / does_not) in line]
    assert complaint.startswith(f"dcls-tag: {folder / does_not}: ")
    assert complaint.endswith("cannot be written: File name too long")
    files = written(tmp_path / "out")
    for name in ("a.wav", "b.wav", "c/a.wav", fits):
        assert any(file.startswith(f"{name}.") for file in files), name
    assert not any("nnn" in file or "unfinished" in file for file in files)


def test_a_folder_that_is_removed_while_running(tagger_file: Path, tmp_path: Path) -> None:
    """One line, and it is not made again."""
    names = [f"in/{number}.wav" for number in range(4)]
    write_tones(tmp_path / "in", [Path(name).name for name in names])
    last = (tmp_path / names[-1]).read_bytes()
    hold_up(tmp_path / names[-1])
    run = start(tagger_file, tmp_path, *names, "-o", "out", "--format", "csv,audacity", "--quiet")
    wait_until(lambda: line_count(tmp_path / "out" / NAME) > 3, run)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    (tmp_path / names[-1]).write_bytes(last)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    assert err == "dcls-tag: out: was removed while this run wrote to it; run it again\n"
    assert not (tmp_path / "out").exists()


def test_a_recording_that_is_still_written(folder: Path, dcls_tag: Command, tmp_path: Path) -> None:
    """It changes between the look at it and the end of its decoding; the same command tags it anew, and it alone."""
    (tmp_path / "start_up").mkdir()
    (tmp_path / "start_up" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def grow(event, args):\n"
        "    if event == 'open' and str(args[0]).endswith('b.wav') and os.environ.get('GROWS'):\n"
        "        del os.environ['GROWS']\n"
        "        os.utime(args[0], (1, 1))\n"
        "sys.addaudithook(grow)\n"
    )
    path = os.pathsep.join([str(tmp_path / "start_up"), environment()["PYTHONPATH"]])
    command = ("in", "--format", "jsonl", "-o", "out", "--jobs", "1")
    done = dcls_tag(*command, env=environment() | {"PYTHONPATH": path, "GROWS": "1"})
    assert done.returncode == 0
    assert done.stderr.startswith(
        "dcls-tag: in/b.wav: was written to while it was read; the same command tags it again"
    )
    assert len(tagged((tmp_path / "out" / "tags.jsonl").read_text())) == 3
    done = dcls_tag(*command)
    assert "continuing: 2 of 3 are done" in done.stderr
    assert not (tmp_path / "out" / NAME).exists()


def test_other_folders_of_the_same_names(folder: Path, tmp_path: Path, tag_here: Here) -> None:
    """What belongs to a recording lies at its path below the common folder: if that is another one, all begins anew."""
    (folder / "c" / "bad.wav").write_bytes(b"no sound")
    tag_here(folder / "c", "-o", tmp_path / "out", "--format", "audacity")
    tag_here(folder, "-o", tmp_path / "out", "--format", "audacity")
    assert {f"{name}.audacity.txt" for name in ("a.wav", "b.wav", "c/a.wav")} <= written(tmp_path / "out")


def test_pictures_of_recordings_with_the_same_name(
    folder: Path, tmp_path: Path, tag_here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path / "pictures")
    assert tag_here(folder, "--plot")[0] == 0
    assert written(tmp_path / "pictures") == {"a.wav.png", "b.wav.png", "c_a.wav.png"}


@pytest.mark.parametrize("names", [["a.wav"], ["a.wav", "b.wav"]], ids=["alone", "with another"])
def test_stdout_holds_results_alone(names: list[str], folder: Path, dcls_tag: Command, tmp_path: Path) -> None:
    """Libraries print to descriptor 1, as libsndfile does on damaged SDS files: not among the results."""
    (tmp_path / "start_up").mkdir()
    (tmp_path / "start_up" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def speak(event, args):\n"
        "    if event == 'open' and str(args[0]).endswith('a.wav'):\n"
        "        os.write(1, b'Error A : A5\\n')\n"
        "        open('spoken', 'w').close()\n"
        "sys.addaudithook(speak)\n"
    )
    path = os.pathsep.join([str(tmp_path / "start_up"), environment()["PYTHONPATH"]])
    files = [f"in/{name}" for name in names]
    done = dcls_tag(*files, "--format", "jsonl", "--quiet", env=environment() | {"PYTHONPATH": path})
    assert (tmp_path / "spoken").exists()
    assert (done.returncode, tagged(done.stdout), done.stderr) == (0, files, "")


def test_no_process_is_left_behind(tagger_file: Path, tmp_path: Path) -> None:
    """Decoders end with a run that is killed: nothing reads what they write."""
    names = [f"in/{number}.wav" for number in range(6)]
    write_tones(tmp_path / "in", [Path(name).name for name in names])
    hold_up(tmp_path / names[-1])
    run = start(tagger_file, tmp_path, *names, "-o", "out", "--format", "csv", "--jobs", "2")
    wait_until(lambda: line_count(tmp_path / "out" / NAME) > 2, run)
    children = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
    assert len(children) == 2
    run.kill()
    run.communicate()
    while any(is_running(child) for child in children):  # up to pytest's time limit
        time.sleep(0.005)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def tagged(lines: str) -> list[str]:
    return [json.loads(line)["file"] for line in lines.splitlines()]


def test_two_runs_into_one_folder(folder: Path, tmp_path: Path, tag_here: Here) -> None:
    from audioset_dcls.tagging.journal import Journal

    (tmp_path / "out").mkdir()
    journal = Journal(tmp_path / "out", {})
    status, _, err = tag_here(folder, "-o", tmp_path / "out")
    journal.close()
    assert (status, len(err.splitlines())) == (2, 1)
    assert "another dcls-tag" in err


def test_a_closed_pipe_is_no_crash(folder: Path, tagger_file: Path) -> None:
    main = "from audioset_dcls.commands.tag import main; main()"
    command = f"'{COMMAND[0]}' -c '{main}' --model {tagger_file} {folder} --format jsonl"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1 >/dev/null"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert "terminate" not in done.stderr


def test_stdin(dcls_tag: Command) -> None:
    content = (RECORDINGS / "duck.ogg").read_bytes()
    done = dcls_tag("-", "--format", "json", "--plot", text=False, input=content)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["file"] == "stdin"
    assert record["tags"][0]["label"] == first_labels()["duck.ogg"]


def test_labels_and_threshold(tmp_path: Path, tag_here: Here) -> None:
    (tmp_path / "wanted.txt").write_text("# birds\nDuck\n/m/09x0r\n\n")
    status, out, _ = tag_here(
        RECORDINGS / "duck.ogg", "--labels", tmp_path / "wanted.txt", "--threshold", "0.0001", "--format", "json"
    )
    assert status == 0
    assert [tag["label"] for tag in json.loads(out)[0]["tags"]] == ["Duck", "Speech"]
    assert json.loads(tag_here(RECORDINGS / "duck.ogg", "--threshold", "1", "--format", "json")[1])[0]["tags"] == []
    (record,) = json.loads(
        tag_here(RECORDINGS / "duck.ogg", "--top", "7", "--threshold", "0.0001", "--format", "json")[1]
    )
    assert len([tag for tag in record["tags"] if not tag["implied"]]) == 7


def test_classes_that_cannot_be_heard_are_named(tmp_path: Path, tag_here: Here, tagger_file: Path) -> None:
    import onnx

    model = onnx.load(tagger_file)
    (masked,) = [entry for entry in model.metadata_props if entry.key == "masked"] or [model.metadata_props.add()]
    masked.key, masked.value = "masked", '["Quack"]'
    onnx.save(model, tmp_path / "masked.onnx")
    (tmp_path / "wanted.txt").write_text("duck\nquack\n")
    command = (RECORDINGS / "duck.ogg", "--labels", tmp_path / "wanted.txt", "--model", tmp_path / "masked.onnx")
    status, _, err = tag_here(*command)
    assert (status, err) == (0, f"dcls-tag: {tmp_path / 'wanted.txt'}: this tagger cannot hear Quack\n")
    assert tag_here(*command, "--quiet")[2] == ""


def test_own_thresholds(folder: Path, tmp_path: Path, tag_here: Here) -> None:
    """They decide what is heard, and others are another run."""
    label = first_labels()["duck.ogg"]
    command = (RECORDINGS / "duck.ogg", folder, "--format", "jsonl", "-o", tmp_path / "out")
    (folder / "broken.wav").write_bytes(b"")  # keeps the journal
    for score, expected in (("0.01", True), ("1", False)):
        (tmp_path / "own.csv").write_text(f'"{label}",{score}\n')
        err = tag_here(*command, "--thresholds", tmp_path / "own.csv")[2]
        record = json.loads((tmp_path / "out" / "tags.jsonl").read_text().splitlines()[0])
        assert (label in [tag["label"] for tag in record["tags"]]) == expected
        assert ("starting over: thresholds changed" in err) == (score == "1")


def test_all_levels(tmp_path: Path, tag_here: Here) -> None:
    """The tagger of the tests hears Bark at any level of threshold, and Animal with it."""
    file = RECORDINGS / "dog_bark.ogg"
    lines = {}
    for options in ((), ("--all-levels",)):
        _, out, _ = tag_here(file, "--threshold", "0.0001", "--top", "1", "--timeline", *options)
        lines[options] = {line.rpartition("  ")[2] for line in out.splitlines()[1:]}
        _, out, _ = tag_here(file, "--threshold", "0.0001", "--top", "1", "--format", "audacity", *options)
        assert len(out.splitlines()) == len(lines[options])
    assert "Animal" not in lines[()]
    assert {"Animal", "Dog"} | lines[()] <= lines[("--all-levels",)]
    (record,) = json.loads(tag_here(file, "--threshold", "0.0001", "--format", "json", "--timeline")[1])
    assert {event["label"]: event["implied"] for event in record["events"]}["Animal"] is True


@pytest.mark.slow
def test_a_long_run_ends_with_what_was_heard(tmp_path: Path, tag_here: Here) -> None:
    names = ("cow.ogg", "rooster.ogg")
    files = [RECORDINGS / name for name in names]
    status, _, err = tag_here(*files, "-o", tmp_path / "out", "--format", "summary,csv,audacity", "--plot")
    assert status == 0
    wrote, header, *classes, rate = err.splitlines()
    assert wrote == (
        f"dcls-tag: {tmp_path / 'out'}: wrote tags.summary.csv, tags.csv and NAME.audacity.txt, NAME.png "
        "for each recording"
    )
    assert header.split() == ["events", "time", "highest", "class"]
    assert {first_labels()[name] for name in names} <= {line.split(maxsplit=3)[3] for line in classes}
    assert "tagged 2 of 2" in rate
    rows = list(csv.DictReader((tmp_path / "out" / "tags.summary.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == [line.split(maxsplit=3)[3] for line in classes]
    (cow,) = [row for row in rows if row["label"] == first_labels()["cow.ogg"]]
    assert (cow["recordings"], cow["events"], cow["first_file"]) == ("1", "1", str(files[0]))
    assert tag_here(*files, "-o", tmp_path / "out", "--quiet")[2] == ""
    assert "highest" not in tag_here(*files, "--format", "jsonl")[2]  # stdout is for a program
    assert "highest" in tag_here(*files)[2]
    assert "highest" not in tag_here(files[0])[2]


def test_nothing_heard_is_not_the_same_as_not_analysed(tmp_path: Path, tag_here: Here) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(32_000), 32_000)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    for options in ((), ("--timeline",)):
        _, out, _ = tag_here(tmp_path, "--format", "csv", "--threshold", "1", *options)
        (row,) = csv.DictReader(out.splitlines())
        assert (row["file"], row["end"], row["label"]) == (str(tmp_path / "silence.wav"), "1.0", "")


@pytest.mark.parametrize(("window", "far"), [("4.9", True), ("5", False), ("20", False), ("20.1", True)])
def test_windows_far_from_those_in_training(window: str, far: bool, folder: Path, tag_here: Here) -> None:
    """Ten seconds, of a tagger that does not tell; said once."""
    err = tag_here(folder, "--window", window)[2]
    assert err.count("far from the 10 s that this tagger learned from") == far
    assert "choose 5 to 20 s" in err or not far
    assert "far" not in tag_here(folder, "--window", window, "--quiet")[2]


def test_timeline(tmp_path: Path, tag_here: Here) -> None:
    write_tones(tmp_path, ["long.wav"], 31)
    (record,) = json.loads(tag_here(tmp_path / "long.wav", "--timeline", "--threshold", "0.001", "--format", "json")[1])
    assert record["events"]
    assert all(0 <= event["start"] < event["end"] <= 31 for event in record["events"])
    starts = [event["start"] for event in record["events"]]
    assert starts == sorted(starts)


def test_what_is_known_of_the_file(tmp_path: Path, tag_here: Here) -> None:
    """Its time, its place and its rate: in every format that has room for them."""
    name = "SM4_20230101_123000.wav"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes((RECORDINGS / "thunder.wav").read_bytes())
    shown = os.path.relpath(tmp_path / "in" / name)
    status, _, _ = tag_here(shown, "-o", tmp_path / "out", "--format", "json,csv,raven", "--timeline")
    assert status == 0
    (record,) = json.loads((tmp_path / "out" / "tags.json").read_text())
    assert (record["file"], record["recorded"]) == (shown, "2023-01-01T12:30:00")
    row = next(csv.DictReader((tmp_path / "out" / "tags.csv").read_text().splitlines()))
    assert row["time"] == "2023-01-01T12:30:00.000"
    tables = [(tmp_path / "out" / f"{table}.raven.txt").read_text() for table in (name, "tags")]
    assert tables[0] == tables[1]  # of one recording
    header, first, *_ = (line.split("\t") for line in tables[0].splitlines())
    selection = dict(zip(header, first, strict=True))
    assert selection["Begin Path"] == str(tmp_path / "in" / name)
    assert selection["High Freq (Hz)"] == "4000"  # half of its 8 kHz
    _, out, _ = tag_here(RECORDINGS / "rooster.ogg", "--format", "raven")
    assert out.splitlines()[1].split("\t")[6] == "14000"  # as high as the tagger hears


def test_nothing_is_left_on_the_way(folder: Path, tmp_path: Path, tag_here: Here) -> None:
    tag_here(folder, "-o", tmp_path / "out", "--format", "csv,parquet,audacity", "--plot", "--embeddings")
    assert not [name for name in written(tmp_path / "out") if "unfinished" in name or Path(name).name.startswith(".")]


def damaged_mp3(path: Path, at: float) -> None:
    """Bytes are missing: the header says how long it was, but not where. Damage at the very end moves nothing."""
    content = (RECORDINGS / "air_raid_siren.mp3").read_bytes()
    begin = int(len(content) * at)
    path.write_bytes(content[:begin] + content[begin + 5000 :])


def test_what_is_noted_of_a_recording(tmp_path: Path, tag_here: Here) -> None:
    """One line, the recording is tagged, and the exit status is 1 only if times in it are wrong."""
    content = (RECORDINGS / "helicopter.ogg").read_bytes()
    (tmp_path / "cut.ogg").write_bytes(content[: len(content) // 2])
    damaged_mp3(tmp_path / "moved.mp3", 0.5)
    for name, expected, word in (("cut.ogg", 0, "no end mark"), ("moved.mp3", 1, "may be too early")):
        for options in ([], ["-o", tmp_path / f"out of {name}"]):
            status, _, err = tag_here(tmp_path / name, "--format", "json", *options)
            line, *others = err.splitlines()
            assert others == [f"dcls-tag: {folder}: wrote tags.json" for folder in options[1:]]
            assert line.startswith(f"dcls-tag: {tmp_path / name}: ")
            assert word in line
            assert status == expected
        assert [record["file"] for record in json.loads((tmp_path / f"out of {name}" / "tags.json").read_text())]
        assert not (tmp_path / f"out of {name}" / NAME).exists()  # there is nothing to try again
    assert tag_here(tmp_path / "cut.ogg", "--quiet")[2] == ""
    assert "too early" in tag_here(tmp_path / "moved.mp3", "--quiet")[2]


def two_channels(path: Path) -> None:
    left, right = (read_audio(RECORDINGS / name)[: 2 * 32_000] for name in ("cow.ogg", "rooster.ogg"))
    length = min(len(left), len(right))
    soundfile.write(path, np.stack([left[:length], right[:length]], 1), 32_000, "FLOAT", format="WAV")


def test_channels(tmp_path: Path, tag_here: Here) -> None:
    """One of them, or each as a recording of its own with files of its own; another channel is another run."""
    folder = tmp_path / "in"
    folder.mkdir()
    two_channels(folder / "two.wav")
    write_tones(folder, ["mono.wav"])
    arguments = (folder, "-o", tmp_path / "out", "--format", "json,audacity", "--plot", "--embeddings", "--top", "1")
    status, _, err = tag_here(*arguments, "--channel", "each", "--threshold", "0.01")
    assert status == 0, err
    records = {record["file"]: record for record in json.loads((tmp_path / "out" / "tags.json").read_text())}
    assert list(records) == [str(folder / name) for name in ("mono.wav#1", "two.wav#1", "two.wav#2")]
    own = {f"{name}{suffix}" for name in ("mono.wav#1", "two.wav#1", "two.wav#2") for suffix in SUFFIXES_OF_ITS_OWN}
    assert written(tmp_path / "out") == {"tags.json"} | own
    for channel in ("1", "2"):
        assert tag_here(*arguments, "--channel", channel, "--threshold", "0.01")[0] == (1 if channel == "2" else 0)
        (alone,) = (r for r in json.loads((tmp_path / "out" / "tags.json").read_text()) if "two" in r["file"])
        assert alone["tags"] == records[f"{folder / 'two.wav'}#{channel}"]["tags"]


def test_each_channel_of_stdin(tmp_path: Path, dcls_tag: Command) -> None:
    two_channels(tmp_path / "two.wav")
    content = (tmp_path / "two.wav").read_bytes()
    done = dcls_tag("-", "--channel", "each", "--format", "json", text=False, input=content)
    assert done.returncode == 0, done.stderr
    assert [record["file"] for record in json.loads(done.stdout)] == ["-#1", "-#2"]


def test_each_channel_of_what_cannot_be_read(folder: Path, tag_here: Here) -> None:
    (folder / "a.wav").write_bytes(b"broken")
    status, out, err = tag_here(folder, "--channel", "each", "--format", "jsonl")
    assert status == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == [
        f"{folder / name}#1" for name in ("b.wav", "c/a.wav")
    ]
    assert sum("a.wav: is no audio" in line for line in err.splitlines()) == 1
