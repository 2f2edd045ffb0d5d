"""Ray Data as the engine: a pool of actors, each a `Worker`, that parts stream through. Nothing else imports Ray."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from audioset_dcls.cluster.run import EngineError
from audioset_dcls.cluster.worker import Job, Worker
from preprocessing.terminal import first_line, printable

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its maker of this cluster; read at its import

import ray
import ray.data
import ray.exceptions

_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_LONGEST_REASON = 400  # characters
_MOST_BLOCKS = 10_000  # of Ray Data; each holds parts
_MOST_LOST = 100  # parts of a round that may be lost with their workers
_MOST_FAILED_STARTS = 10  # of actors, one after the other: for a while they are sent to a node that died
_ON_A_GPU = 4  # workers of a GPU, each with decoders on cores beside it


class RayEngine:
    """A connection to a cluster, or one of this machine's cores alone; a context manager.

    Args:
        address: of a cluster, for `ray.init`; None for the one that is running here or that RAY_ADDRESS names, else a
            new one of this machine's cores.
        workers: actors; by default as many as the cluster has cores, or `_ON_A_GPU` for each GPU.
        device: "cpu": a core for each actor; "cuda": a share of a GPU and of the cores.

    Raises EngineError.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, device: str = "cpu") -> None:
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(address, **quiet)
        except Exception as error:  # ConnectionError, ValueError, RuntimeError, by version
            raise EngineError(f"{address or 'Ray'}: no cluster can be reached there ({first_line(error)})") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own there, which aborts
        has = ray.cluster_resources()
        cores, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        if device == "cuda" and not gpus:
            ray.shutdown()
            raise EngineError("the cluster has no GPU; leave out --device cuda")
        self.device = device
        self.workers = workers or (_ON_A_GPU * gpus if device == "cuda" else cores) or 1
        self.threads = max(cores // self.workers, 1) if device == "cuda" else 1
        self._needs = {"num_cpus": self.threads, "num_gpus": 1 / _ON_A_GPU if device == "cuda" else None}

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    @contextmanager
    def run(self, job: Job, parts: Sequence[int]) -> Iterator[Iterator[dict[str, Any]]]:
        """See `Engine`. Raises EngineError."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = _MOST_LOST
        context.max_consecutive_actor_init_deaths = _MOST_FAILED_STARTS
        for handler in logging.getLogger("ray.data").handlers:
            if handler.get_name() == "console":  # its tracebacks; the session's log file keeps them
                handler.setLevel(logging.CRITICAL + 1)
        rows = [{"part": number} for number in parts]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # max_restarts has no other name yet
            tagged = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map_batches(
                _Actor,
                fn_constructor_args=(job,),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self.workers, initial_size=self.workers),
                max_restarts=0,  # another actor takes its place, a later round its part: a node may not come back
                **self._needs,  # type: ignore[arg-type]
            )
        try:
            yield (json.loads(row["done"]) for row in tagged.iter_rows())
        except (ray.exceptions.RayError, RuntimeError, ValueError) as error:
            raise EngineError(f"a worker failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line; the last one of what Ray says of a worker is what the worker raised."""
    lines = [_COLOURS.sub("", line).strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[-1] if lines else type(error).__name__)[:_LONGEST_REASON]


class _Actor:
    """What Ray Data keeps one of in each of its processes."""

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = [json.dumps(self._worker.outcome(int(number))) for number in batch["part"]]
        return {"part": batch["part"], "done": done}
