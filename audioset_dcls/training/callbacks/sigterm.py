"""SIGTERM ends a run at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment


class EndOnSigterm(L.Callback):
    """Raises SystemExit on SIGTERM, in place of Lightning's own handler; the last checkpoint is what to go on from.

    Lightning's broadcasts from within the handler: processes that are in another collective wait for each other until
    it times out, half an hour later. Under SLURM its handler stays, which requeues.
    """

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        if threading.current_thread() is threading.main_thread() and not SLURMEnvironment.detect():
            signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends what hangs
    raise SystemExit(128 + number)
