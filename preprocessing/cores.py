"""How many processor cores there are to use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer if its container has a CPU quota (at least 1)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return bound if quota is None else max(min(bound, round(quota)), 1)


def cpu_quota(own_groups: Path = _OWN_GROUPS, cgroups: Path = _CGROUPS) -> float | None:
    """The CPU time per second that Linux control groups (version 1 or 2) leave to this process, in cores.

    None without a quota. The smallest one counts, of this process's group and of those around it.
    """
    return min((quota for folder in _folders(own_groups, cgroups) if (quota := _quota(folder))), default=None)


def _folders(own_groups: Path, cgroups: Path) -> Iterator[Path]:
    """Where quotas of the process's groups may stand; a container sees its own group as the root."""
    try:
        lines = own_groups.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        # version 1 has a hierarchy for each controller, version 2 (no controller named) a single one
        for root in (cgroups / controllers, cgroups / "cpu") if controllers else (cgroups,):
            group = root / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    # version 2: "200000 100000" or "max 100000", in microseconds; version 1: two files, -1 without a limit
    words = (
        _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
    ).split()
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return None
    return int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
