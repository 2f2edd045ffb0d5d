"""What is carried to a GPU: the packed corpus comes back as it was, as far as Opus keeps it; the benchmark runs."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RATE = 32_000


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tones(path: Path, first: int) -> None:
    """Three tones of their own classes, 1 to 2 s long."""
    labels = [f"tone {number}" for number in range(6)]
    lengths = [RATE, 48_001, 2 * RATE]
    with ClipWriter(path, labels, samples=2 * RATE, teacher=True) as writer:
        for number, length in enumerate(lengths):
            time = np.arange(length) / RATE
            wave = np.zeros(2 * RATE, np.int16)
            wave[:length] = 9_000 * np.sin(2 * np.pi * 300 * (first + number + 1) * time)
            label = np.eye(6, dtype=bool)[[first + number]]
            writer.append([f"{path.stem}-{number}"], wave[None], label, teacher=label * 0.5)
        writer.finish({"samples": np.array(lengths, np.int32)})


def test_a_packed_corpus_comes_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, first in (("train", 0), ("repositories_train", 3), ("unlabelled", 0)):
        tones(source / f"{name}.h5", first)
    for name in ("validation", "repositories_validation"):
        tones(source / f"{name}.h5", 0)
    run("scripts/gpu_day_corpus.py", "pack", source, tmp_path / "packed", "--megabytes", "0.1", "--bitrate", "24000")
    run("scripts/gpu_day_corpus.py", "unpack", tmp_path / "packed", tmp_path / "unpacked")
    made = ClipFile(tmp_path / "unpacked" / "train.h5")
    assert len(made) == 9
    assert made.lengths is not None
    originals = {}
    for name in ("train", "repositories_train", "unlabelled"):
        file = ClipFile(source / f"{name}.h5")
        originals |= {audio: (file, clip) for clip, audio in enumerate(file.audio_names())}
    for clip, name in enumerate(made.audio_names()):
        file, row = originals[name.partition("-")[2]]
        assert file.lengths is not None
        length = int(file.lengths[row])
        assert made.lengths[clip] == length
        np.testing.assert_array_equal(made.read("target", [clip]), file.read("target", [row]))
        np.testing.assert_allclose(made.read("teacher", [clip]), file.read("teacher", [row]), atol=0.003)
        expected, actual = file.waveform(row)[:length].astype(float), made.waveform(clip)[:length].astype(float)
        # a codec keeps no samples, but a tone where it was: 0.9 of full correlation
        assert np.corrcoef(expected, actual)[0, 1] > 0.9, name


def test_the_benchmark_checks_each_candidate(tmp_path: Path) -> None:
    """On a GPU's code path as far as a CPU has it, with Triton's kernels in the interpreter."""
    run("benchmarks/gpu.py", "--tiny", "--parts", "check", "--output", tmp_path, TRITON_INTERPRET="1")
    with (tmp_path / "check.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 7
    assert {row["verdict"] for row in rows} == {"right"}
    assert {row["candidate"] for row in rows} >= {"torch", "cells", "triton"}
    assert (tmp_path / "gpu.md").read_text().count("\n## ") == 1
