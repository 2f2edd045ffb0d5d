"""Clips and sources of each class, by label or teacher, counted once whatever file they lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preprocessing.clips.reader import ClipFile
from preprocessing.clips.writer import ClipWriter
from preprocessing.loading import coverage
from preprocessing.loading.coverage import class_coverage
from preprocessing.loading.scenes import SceneDataModule

LABELS = ("a", "b", "c")
SAMPLES = 4096


def write(
    path: Path, names: list[str], targets: list[list[int]], teacher: np.ndarray | None, groups: list[str] | None
) -> ClipFile:
    with ClipWriter(path, LABELS, samples=SAMPLES, teacher=teacher is not None, group=groups is not None) as writer:
        waveforms = np.ones((len(names), SAMPLES), np.int16)
        writer.append(names, waveforms, np.array(targets, bool), teacher=teacher, groups=groups)
        writer.finish()
    return ClipFile(path)


@pytest.fixture
def files(tmp_path: Path) -> list[ClipFile]:
    """Three of source x, one of y, three of z; in the second file x again and w."""
    targets = [[1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]]
    teacher = np.zeros((7, 3), np.float16)
    teacher[2, 0] = 0.75  # heard, not labelled
    teacher[5, 2] = 0.5  # not above 0.5
    teacher[0, 0] = 0.9  # heard and labelled: one clip
    first = write(tmp_path / "1.h5", list("1234567"), targets, teacher, ["x", "x", "x", "y", "z", "z", "z"])
    return [first, write(tmp_path / "2.h5", ["8", "9"], [[1, 0, 0], [0, 0, 1]], None, ["x", "w"])]


@pytest.mark.parametrize("block", [1, 2, 4096])
def test_labels_and_confident_scores_count(files: list[ClipFile], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "_BLOCK", block)
    counted = class_coverage(files)
    assert counted.clips.tolist() == [5, 2, 1]
    assert counted.sources.tolist() == [2, 1, 1]  # x is one source, though two files have it


def test_excluded_clips_do_not_count(files: list[ClipFile], tmp_path: Path) -> None:
    counted = class_coverage(files, {"4", "9", "5"})
    assert (counted.clips.tolist(), counted.sources.tolist()) == ([4, 1, 0], [1, 1, 0])
    (tmp_path / "exclude.txt").write_text("4\n9\n5\n")
    paths, seconds = [file.path for file in files], SAMPLES / 32_000
    module = SceneDataModule(train=paths, exclude=tmp_path / "exclude.txt", clip_seconds=seconds, scene_seconds=seconds)
    for one, other in zip(module.class_coverage(), counted, strict=True):
        assert one.tolist() == other.tolist()


def test_clips_without_a_source_are_sources_of_their_own(files: list[ClipFile], tmp_path: Path) -> None:
    alone = write(tmp_path / "3.h5", ["1", "2"], [[1, 0, 1], [1, 0, 0]], None, None)
    counted = class_coverage([*files, alone])
    assert counted.clips.tolist() == [7, 2, 2]
    assert counted.sources.tolist() == [4, 1, 2]
