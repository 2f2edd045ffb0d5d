"""Processes that tests start, and stop at a moment that is the same however busy the machine is."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def signalled_at(function: str, number: int, what: signal.Signals) -> str:
    """Python source to run before a command: at its `number`-th call of os.`function` it sends itself a signal."""
    return (
        "import itertools, os\n"
        f"_function, _calls = os.{function}, itertools.count(1)\n"
        "def _counted(*arguments, **options):\n"
        f"    if next(_calls) == {number}:\n"
        f"        os.kill(os.getpid(), {int(what)})\n"
        "    return _function(*arguments, **options)\n"
        f"os.{function} = _counted\n"
    )


def line_count(path: Path) -> int:
    """Whole lines of a file that a process writes, and may make or remove at any moment; 0 if there is none."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for what a process does. AssertionError, with its output, if it ends without having done it."""
    while not happened():
        if process.poll() is not None:
            output, errors = process.communicate()
            assert happened(), f"ended with status {process.returncode}: {output} {errors}"
            return
        time.sleep(0.005)
