"""Packed scenes: what is in them, the same after a kill -9 and on any number of processes, the command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from preprocessing.hdf5 import INT16_SCALE, ClipFile, ClipFileError, ClipWriter
from preprocessing.packed_scenes import pack_scenes
from preprocessing.scenes import Scenes, drawing_weights, load_recordings
from preprocessing.teacher import OnnxTeacher, TeacherError

ROOT = Path(__file__).parents[2]
CLASSES, RATE = 4, 32_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three recorded and three synthetic recordings of 0.3 to 0.8 s; the synthetic ones are class 3."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, classes in (("recorded", [0, 1, 2]), ("synthetic", [3, 3, 3])):
        rng = np.random.default_rng(len(name))
        lengths = np.array([9_600, 16_000, 25_600])
        waveforms = np.zeros((3, RATE), np.int16)
        for row, length in enumerate(lengths):
            waveforms[row, :length] = rng.integers(-9_000, 9_000, length)
        with ClipWriter(folder / f"{name}.h5", list("abcd"), samples=RATE, teacher=True) as writer:
            target = np.eye(CLASSES, dtype=bool)[classes]
            writer.append([f"{name}{row}" for row in range(3)], waveforms, target, teacher=np.full((3, CLASSES), 0.25))
            writer.finish({"samples": lengths.astype(np.int32)})
    return folder / "recorded.h5", folder / "synthetic.h5"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Scores are the loudest sample times 0.1 ... 0.4, the embedding is the first five samples."""
    value, node, floats = helper.make_tensor_value_info, helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        node("Abs", ["waveform"], ["size"]),
        node("ReduceMax", ["size", "axes"], ["loudest"], keepdims=1),
        node("Mul", ["loudest", "factors"], ["scores"]),
        node("Slice", ["waveform", "zero", "five", "axes"], ["embedding"]),
    ]
    constants = {"axes": [1], "zero": [0], "five": [5], "factors": np.float32([[0.1, 0.2, 0.3, 0.4]])}
    outputs = [value("embedding", floats, ["batch", 5]), value("scores", floats, ["batch", CLASSES])]
    initial = [numpy_helper.from_array(np.asarray(numbers), name) for name, numbers in constants.items()]
    graph = helper.make_graph(nodes, "g", [value("waveform", floats, ["batch", "samples"])], outputs, initial)
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def command(corpus, teacher, output, count, workers=1, before=""):
    recorded, synthetic = map(str, corpus)
    settings = ["--count", str(count), "--seconds", "0.5", "--seed", "3", "--teacher", str(teacher), "-j", str(workers)]
    run = [
        sys.executable,
        "-c",
        f"{before}from cli import prepare; prepare()",
        "scenes",
        recorded,
        "--synthetic",
        synthetic,
    ]
    return subprocess.Popen([*run, "-o", str(output), *settings], cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def packed(corpus, teacher, tmp_path_factory):
    output = tmp_path_factory.mktemp("packed") / "scenes.h5"
    process = command(corpus, teacher, output, 200, workers=2)
    assert process.wait() == 0, process.stderr.read()
    return output


def test_scenes_are_those_of_the_recordings(packed, corpus):
    recordings = load_recordings(corpus)
    weight = drawing_weights(recordings.target) * [1, 1, 1, 0.5, 0.5, 0.5]
    scenes = Scenes(recordings, 200, 0.5, (1, 2), seed=3, level=(-30, -1), weight=weight)
    file = ClipFile(packed)
    assert (len(file), file.labels, file.samples) == (200, tuple("abcd"), 16_000)
    for index in (0, 33, 199):
        np.testing.assert_array_equal(file.waveforms([index])[0], scenes[index]["waveform"])
        np.testing.assert_array_equal(file.read("target", [index])[0], scenes[index]["target"])


def test_the_teacher_heard_each_scene(packed):
    file, everything = ClipFile(packed), np.arange(200)
    waveforms = file.waveforms(everything).astype(np.float32) / INT16_SCALE
    loudest = np.abs(waveforms).max(1, keepdims=True)
    np.testing.assert_allclose(file.read("teacher", everything), loudest * [0.1, 0.2, 0.3, 0.4], atol=3e-4)  # float16
    assert file.embedding_size == 5
    np.testing.assert_array_equal(file.read("embedding", everything), waveforms[:, :5].astype(np.float16))


def test_rare_classes_come_more_often_and_synthetic_ones_half_as_often(packed):
    """Weights 1, 1, 1 and 3 x 0.5 / sqrt(3): class 3 is drawn 0.866 / 3.866 of the time, 1.5 times a scene."""
    share = ClipFile(packed).read("target", np.arange(200)).mean(0)
    drawn = 0.866 / 3.866
    expected = (drawn + 1 - (1 - drawn) ** 2) / 2  # of one and of two recordings
    assert share[3] == pytest.approx(expected, abs=0.12)  # 3.6 standard deviations
    np.testing.assert_array_less(share[3], share[:3] + 0.12)


def test_a_killed_run_goes_on_to_the_same_file(packed, corpus, teacher, tmp_path):
    output = tmp_path / "scenes.h5"
    process = command(corpus, teacher, output, 200)
    journal = tmp_path / "scenes.h5.part" / "journal"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists()
    again = command(corpus, teacher, output, 200)
    assert again.wait() == 0, again.stderr.read()
    assert output.read_bytes() == packed.read_bytes()


def test_a_full_disk_is_one_line_and_keeps_what_is_done(packed, corpus, teacher, tmp_path):
    """Files may grow to 2 MB: the kernel refuses more, as a full disk does."""
    limit = """import errno, os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
errno.EDQUOT = errno.EFBIG
"""
    output = tmp_path / "scenes.h5"
    process = command(corpus, teacher, output, 200, before=limit)
    message = "the disk is full; make room and run the same again, it goes on from here"
    assert process.communicate()[1].splitlines() == [f"dcls-prepare: {output}: {message}"]
    assert process.returncode == 1
    again = command(corpus, teacher, output, 200)
    assert again.wait() == 0, again.stderr.read()
    assert output.read_bytes() == packed.read_bytes()


def test_a_place_that_cannot_be_written_is_one_line(corpus, teacher, tmp_path):
    (tmp_path / "file").touch()
    process = command(corpus, teacher, tmp_path / "file" / "scenes.h5", 8)
    assert process.communicate()[1].splitlines() == [
        f"dcls-prepare: {tmp_path / 'file' / 'scenes.h5.part'}: Not a directory"
    ]
    assert process.returncode == 1


def test_without_a_teacher_the_recordings_scores_are_joined(corpus, tmp_path):
    pack_scenes(corpus[:1], tmp_path / "scenes.h5", count=8, seconds=0.3, workers=1)
    file = ClipFile(tmp_path / "scenes.h5")
    teacher, target = (file.read(name, np.arange(8)) for name in ("teacher", "target"))
    assert file.embedding_size == 0
    assert (teacher[target] == 1).all()
    assert set(teacher[~target].astype(float)) <= {0.25, 1 - 0.75**2}


def test_problems_are_named(corpus, teacher, packed, tmp_path):
    with pytest.raises(ClipFileError, match=r"scenes\.h5: exists already"):
        pack_scenes(corpus, packed, count=8)
    with pytest.raises(TeacherError, match=r"none\.onnx: no such file"):
        pack_scenes(corpus, tmp_path / "out.h5", count=8, teacher=tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(TeacherError, match=r"broken\.onnx: no ONNX model"):
        OnnxTeacher(tmp_path / "broken.onnx")
    with h5py.File(corpus[0]) as file, ClipWriter(tmp_path / "three.h5", list("abc"), samples=RATE) as writer:
        writer.append(["one"], file["waveform"][:1], np.ones((1, 3), bool))
        writer.finish()
    with pytest.raises(TeacherError, match="scores 4 classes, the recordings have 3"):
        pack_scenes([tmp_path / "three.h5"], tmp_path / "out.h5", count=8, teacher=teacher)
    assert not (tmp_path / "out.h5").exists()
