"""Only a lock that is held says so; a file system without locks keeps nobody from working."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing.files import lock

HOLD = (
    "import sys; from preprocessing.files import lock; file = open(sys.argv[1], 'ab'); "
    "print(lock(file), flush=True); input()"
)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with path.open("ab") as file:
        assert not lock(file)
    other.kill()  # the lock ends with its process
    other.communicate()
    with path.open("ab") as file, path.open("ab") as second:
        assert lock(file)
        assert not lock(second)
    with path.open("ab") as file:
        assert lock(file)


@pytest.mark.parametrize("number", [37, 38, 95, 524])
@pytest.mark.parametrize("wait", [False, True])
def test_file_systems_without_locks(wait: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOLCK, ENOSYS, EOPNOTSUPP and the kernel's own ENOTSUPP, as NFS, FUSE and cluster file systems give them."""
    fcntl = pytest.importorskip("fcntl")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / "lock").open("ab") as file:
        assert lock(file, wait)
