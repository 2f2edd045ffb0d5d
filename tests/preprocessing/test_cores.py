"""Cores are counted by what a container may use, not by what its host has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preprocessing.cores import cpu_quota, usable_cores


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """A folder to be /sys/fs/cgroup; `own` in it is what /proc/self/cgroup would say."""
    return tmp_path


def quota(root: Path, own: str, **files: str) -> float | None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "own").write_text(own)
    return cpu_quota(root / "own", root)


@pytest.mark.parametrize(
    ("limit", "cores"), [("200000 100000\n", 2.0), ("50000 100000\n", 0.5), ("max 100000\n", None)]
)
def test_version_2_in_a_container(limit: str, cores: float | None, groups: Path) -> None:
    assert quota(groups, "0::/\n", **{"cpu.max": limit}) == cores


def test_version_2_takes_the_smallest_around(groups: Path) -> None:
    files = {"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}
    assert quota(groups, "0::/a/b\n", **files) == 3.0


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_version_1(folder: str, groups: Path) -> None:
    files = {f"{folder}/jobs/cpu.cfs_quota_us": "150000\n", f"{folder}/jobs/cpu.cfs_period_us": "100000\n"}
    assert quota(groups, f"9:memory:/other\n1:{folder}:/jobs\n0::/\n", **files) == 1.5


def test_version_1_in_a_container_that_sees_the_path_of_its_host(groups: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert quota(groups, "1:cpu:/docker/0123\n", **files) == 2.0


def test_without_a_quota(groups: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n", "cpu.max": "nonsense\n"}
    assert quota(groups, "1:cpu:/\n0::/\n", **files) is None
    assert cpu_quota(groups / "missing", groups) is None


def test_never_more_than_the_process_is_bound_to() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
