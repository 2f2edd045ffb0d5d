"""The most memory that this process had at once. `ru_maxrss` would start with that of the process which started it."""

from __future__ import annotations

from pathlib import Path

import pytest

_PROCESS = Path("/proc/self")


def reset_peak() -> None:
    """Forget what was held before. Skips the test on systems that cannot."""
    if not (_PROCESS / "clear_refs").exists():
        pytest.skip("needs Linux's /proc")
    (_PROCESS / "clear_refs").write_text("5")


def peak() -> int:
    """Bytes since `reset_peak`, or since the process began."""
    (line,) = (line for line in (_PROCESS / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
