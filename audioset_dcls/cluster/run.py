"""A run of `dcls-tag --ray`: what is to be done, rounds of workers that do it, a manifest at the end."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Protocol, TextIO

from audioset_dcls import __version__
from audioset_dcls.cluster.folder import EVENTS, TAGGER, TAGS, Folder, without
from audioset_dcls.cluster.inputs import find_inputs
from audioset_dcls.cluster.worker import Job
from audioset_dcls.tagging.contract import EMBEDDING
from audioset_dcls.tagging.outputs import Outputs, UsageError
from audioset_dcls.tagging.results import Options
from audioset_dcls.tagging.tagger import Tagger
from audioset_dcls.tagging.windows import window_warning
from audioset_dcls.tagging.writers.formats import clock
from preprocessing.files import atomic_write, sha256_of
from preprocessing.terminal import show

PART_SIZE = 256  # recordings: what a worker that is killed has to do again, and a file of the results holds
_ROUNDS = 3  # in which a part that was lost with its worker is tried
_SHARES = 4  # parts for each worker at least, so that none waits for the last one


class EngineError(RuntimeError):
    """The cluster cannot be reached, or its workers cannot work; one line."""


class Engine(Protocol):
    """What does parts side by side: `workers` of them, on `device`, each with `threads` (see `Job`)."""

    workers: int
    threads: int
    device: str

    def run(self, job: Job, parts: Sequence[int]) -> AbstractContextManager[Iterator[dict[str, Any]]]:
        """`Worker.outcome` of each part, as it is done; a part lost with its worker gives nothing.

        Raises EngineError if this cannot go on.
        """
        ...


@dataclass
class Summary:
    """How a run ended. `problems`: inputs that gave nothing; `lost`: parts that no worker survived."""

    tagged: int = 0
    failed: int = 0
    resumed: int = 0
    misplaced: int = 0
    lost: int = 0
    seconds: float = 0.0  # of audio tagged in this run
    problems: list[str] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        return 1 if self.failed or self.misplaced or self.lost or self.problems else 0


def run(
    inputs: Sequence[str],
    tagger: Tagger,
    options: Options,
    outputs: Outputs,
    start: Callable[[], AbstractContextManager[Engine]],
    resume: bool = True,
    quiet: bool = False,
    part_size: int = PART_SIZE,
    stderr: TextIO | None = None,
) -> Summary:
    """Tag `inputs` (see `find_inputs`) with an engine's workers into the folder of `outputs`; see `Folder`.

    Each recording is in the results once, whatever dies on the way: parts are written whole, and count when their
    marker is there. The same call goes on after a kill. Recordings that failed count as done.

    Args:
        start: gives the engine, once it is clear that there is something to do for it.
        part_size: recordings of a part, at most.

    Raises UsageError for what cannot be written so, InputError, FolderError, ModelError, OSError, and what the engine
    raises.
    """
    if outputs.folder is None:
        raise UsageError("--ray writes files: add -o DIR, a folder that all nodes see")
    if (
        outputs.formats not in (("table",), ("parquet",))
        or outputs.separate
        or outputs.plot
        or outputs.clips is not None
    ):
        raise UsageError("--ray writes Parquet: leave out --format, --separate, --plot and --clips")
    if outputs.embeddings:
        tagger.model.require(EMBEDDING)
    settings = _settings(tagger, options, outputs)
    folder = Folder(outputs.folder.absolute())
    token = folder.open_for_writing(settings, resume)
    try:
        with atomic_write(folder.path / TAGGER) as unfinished:
            shutil.copyfile(tagger.model.path, unfinished)
        with start() as engine:
            job = Job(
                folder=folder.path,
                token=token,
                model_hash=settings["model_sha256"],
                options=replace(options, timeline=False, embeddings=outputs.embeddings),
                view=outputs.view,
                embeddings=outputs.embeddings,
                device=engine.device,
                threads=engine.threads,
            )
            work = _Run(folder, job, engine, quiet, stderr or sys.stderr)
            if warning := window_warning(settings["window"], tagger.clip_seconds):
                work.say(warning)
            work.plan(inputs, part_size)
            work.tag()
        work.finish(settings)
    finally:
        folder.close()
    return work.summary


def _settings(tagger: Tagger, options: Options, outputs: Outputs) -> dict[str, Any]:
    """All that a row depends on, apart from its recording."""
    return {
        "version": __version__,
        "model": tagger.model.path.name,
        "model_sha256": sha256_of(tagger.model.path),
        **options.of(tagger).fingerprint(),
        "timeline": outputs.timeline,
        "embeddings": outputs.embeddings,
    }


class _Run:
    """The state of one run, on the driver. Its memory grows with 8 bytes an input that is done, not with results."""

    def __init__(self, folder: Folder, job: Job, engine: Engine, quiet: bool, stderr: TextIO) -> None:
        self._folder, self._job, self._engine = folder, job, engine
        self._quiet, self._stderr = quiet, stderr
        self._parts = 0
        self.summary = Summary()

    def plan(self, inputs: Sequence[str], part_size: int) -> None:
        """Write down what is to be done, in parts that are small enough for every worker to get some."""
        problems = self.summary.problems
        remaining = without(find_inputs(inputs, problems), self._folder.done_names())
        shares = _SHARES * self._engine.workers
        first = list(islice(remaining, shares * part_size))
        size = part_size if len(first) == shares * part_size else max(len(first) // shares, 1)
        self._parts, planned = self._folder.write_plan(chain(first, remaining), size)
        self.summary.resumed = sum(marker["tagged"] + marker["failed"] for marker in self._folder.markers())
        for problem in problems:
            show(f"dcls-tag: {problem}", self._stderr)
        if self.summary.resumed:
            self.say(f"{self._folder.path}: continuing: {self.summary.resumed} are done, {planned} inputs remain")

    def tag(self) -> None:
        """In rounds: a node that dies may take parts along, or all that Ray was about to do."""
        remaining = self._remaining()
        for attempt in range(_ROUNDS):
            if not remaining:
                return
            if attempt:
                self.say(f"{len(remaining)} parts were lost with their workers; trying them again")
            before = len(remaining)
            try:
                with self._engine.run(self._job, remaining) as done:
                    for part in done:
                        self._count(part)
            except EngineError as error:
                remaining = self._remaining()
                if len(remaining) == before:  # not one part: this is no accident
                    raise
                self.say(str(error))
            remaining = self._remaining()
        self.summary.lost = len(remaining)

    def finish(self, settings: dict[str, Any]) -> None:
        """Tidy up and write the manifest."""
        self._folder.remove_unfinished()
        counts: dict[str, float] = {"parts": 0, "tagged": 0, "failed": 0, "seconds": 0.0}
        for marker in self._folder.markers():
            counts["parts"] += 1
            for name in ("tagged", "failed", "seconds"):
                counts[name] += marker[name]
        summary = self.summary
        self._folder.write_manifest(
            {
                "settings": settings,
                "token": self._job.token,
                "complete": not summary.lost,
                "recordings": counts["tagged"] + counts["failed"],
                **counts,
            }
        )
        table = EVENTS if self._job.view.timeline else TAGS
        self.say(
            f"{self._folder.path}: tagged {summary.tagged} recordings, {clock(summary.seconds)} of sound, into {table}/"
            + f"; {summary.failed} failed, see failures/" * bool(summary.failed)
        )
        if summary.lost:
            line = (
                f"{summary.lost} parts were lost with their workers {_ROUNDS} times; the same command tries them again"
            )
            show(f"dcls-tag: {line}", self._stderr)

    def _remaining(self) -> list[int]:
        prefix = f"part-{self._job.token}-"
        done = {int(part.removeprefix(prefix)) for part in self._folder.done() if part.startswith(prefix)}
        return [number for number in range(self._parts) if number not in done]

    def _count(self, part: dict[str, Any]) -> None:
        if "lost" in part:
            show(f"dcls-tag: {part['lost']}", self._stderr)
            return
        summary = self.summary
        summary.tagged += part["tagged"]
        summary.failed += part["failed"]
        summary.misplaced += part["misplaced"]
        summary.seconds += part["seconds"]
        for message in part["messages"]:
            show(f"dcls-tag: {message}", self._stderr)

    def say(self, line: str) -> None:
        if not self._quiet:
            show(f"dcls-tag: {line}", self._stderr)
