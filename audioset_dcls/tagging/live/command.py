"""A program that is started when an event begins."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

from preprocessing.terminal import printable

_AT_ONCE = 4  # processes; what begins meanwhile starts none


def check_command(command: str) -> list[str]:
    """Its arguments. Raises ValueError, one line, for what is no command, or of a program that is not there."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"--run {command!r}: {error}") from None
    if not arguments or shutil.which(arguments[0]) is None:
        raise ValueError(f"--run {command!r}: there is no such program")
    return arguments


class CommandRunner:
    """Starts `command` with what was heard in its environment: DCLS_LABEL, DCLS_SCORE and DCLS_EVENT, a JSON object.

    The command is split into arguments as a shell would, and started without one. Labels are never among the arguments.

    Args:
        on_note: called with a line if it cannot be started.

    Raises ValueError as `check_command`.
    """

    def __init__(self, command: str, on_note: Callable[[str], None]) -> None:
        self._arguments = check_command(command)
        self._on_note = on_note
        self._running: list[subprocess.Popen[bytes]] = []

    def heard(self, event: dict[str, Any]) -> None:
        self._running = [process for process in self._running if process.poll() is None]
        if len(self._running) >= _AT_ONCE:
            self._on_note(f"{self._arguments[0]}: not started: {_AT_ONCE} of it run still")
            return
        variables = {
            "DCLS_LABEL": printable(event["label"]),
            "DCLS_SCORE": str(event["score"]),
            "DCLS_EVENT": json.dumps(event),
        }
        try:
            process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # ours is for results
                env=os.environ | variables,
            )
        except OSError as error:
            self._on_note(f"{self._arguments[0]}: cannot be started: {error.strerror}")
            return
        self._running.append(process)
