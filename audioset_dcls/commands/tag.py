"""dcls-tag."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from audioset_dcls.commands.parser import USAGE, add_device, add_model, add_selection, create_parser, extra, stop
from preprocessing.terminal import show

if TYPE_CHECKING:
    from audioset_dcls.tagging.outputs import Outputs
    from audioset_dcls.tagging.results import Options
    from audioset_dcls.tagging.tagger import Tagger
    from preprocessing.decoding.process import DecoderPool

COMMAND = "dcls-tag"
_INTERRUPTED = 128


def main() -> None:
    """What sounds in recordings."""
    from audioset_dcls.tagging.writers import FORMATS

    parser = create_parser(
        "dcls-tag",
        "Tag recordings: which of AudioSet's 527 sounds are in them, and with --timeline when. "
        "Scores are independent probabilities.",
        epilog="exit status: 0 all tagged, 1 some failed (the others are tagged) or lack sound of unknown length (then "
        "later times are too early), 2 usage, 130 interrupted",
    )
    parser.add_argument("inputs", nargs="*", metavar="FILE|FOLDER|GLOB|-", help="folders recursively; - is stdin")
    pick = add_selection(parser, "a recording")
    pick.add_argument("--list-labels", action="store_true", help="show the classes, and which the tagger can hear")
    pick.add_argument("--timeline", action="store_true", help="events, with start and end, not tags (default: off)")
    write = parser.add_argument_group("how to write it")
    write.add_argument(
        "--format",
        default="table",
        metavar="NAME,...",
        help=f"{', '.join(FORMATS)}; several with -o (default: table)",
    )
    write.add_argument("-o", "--output", type=Path, metavar="DIR", help="write files there (default: to stdout)")
    write.add_argument(
        "--separate", action="store_true", help="with -o: a file for each recording in every format (default: off)"
    )
    write.add_argument("--embeddings", action="store_true", help="with -o: (windows, D) as .npy (default: off)")
    write.add_argument("--plot", action="store_true", help="a PNG of waveform, log-mel and tags (default: off)")
    write.add_argument("--clips", type=Path, metavar="DIR", help="each event as a FLAC file there (default: none)")
    write.add_argument(
        "--clips-per-class", type=int, default=20, metavar="N", help="those with the highest scores (default: 20)"
    )
    write.add_argument("--quiet", action="store_true", help="nothing but errors on stderr (default: off)")
    work = parser.add_argument_group("how to work")
    add_model(work)
    work.add_argument("--list-models", action="store_true", help="a table of the names that --model takes")
    work.add_argument(
        "--window",
        type=float,
        metavar="S",
        help="cut longer recordings so (default: as the tagger was trained, the embedded one on 5, others on 10)",
    )
    work.add_argument(
        "--hop",
        type=float,
        metavar="S",
        help="from window to window (default: half the window; of the embedded tagger, all of it)",
    )
    work.add_argument(
        "--channel",
        default="mix",
        metavar="NAME",
        help="mix, left, right, a number from 1, or each: every channel as a recording of its own (default: mix)",
    )
    work.add_argument("--jobs", type=int, metavar="N", help="threads (default: one a core)")
    add_device(work)
    work.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="with -o: on a Ray cluster with --jobs workers, also lists, tar shards, Parquet and URIs (default: the "
        "one that runs here, or one of this machine)",
    )
    work.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with -o: continue a run that was cut short (default: --resume)",
    )
    tag(parser.parse_args())


def tag(arguments: argparse.Namespace) -> None:
    """`dcls-tag`; leaves by SystemExit: 0 all tagged, 1 some failed or nothing can be written, 2 usage, 130 Ctrl-C."""
    if arguments.list_models:
        from audioset_dcls.commands.models import table

        for line in table():
            show(line)
        return
    if not arguments.inputs and not arguments.list_labels:
        stop(COMMAND, USAGE, "name recordings, folders or globs to tag, or - for stdin; see --help")
    signal.signal(signal.SIGTERM, _interrupt)  # what `docker stop` and batch systems send
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names and labels in any language, wherever the output goes
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    _keep_stdout_for_results()
    try:
        on_cluster = arguments.ray is not None and not arguments.list_labels
        status = _tag_on_cluster(arguments) if on_cluster else _tag(arguments)
    except BrokenPipeError:  # `dcls-tag ... | head`
        _abandon_stdout()
        raise SystemExit(1) from None
    except OSError as error:
        _abandon_stdout()
        kept = "; what was done is kept, the same command continues" if arguments.output else ""
        stop(
            COMMAND,
            1,
            f"{error.filename or arguments.output or 'stdout'}: cannot be written: {error.strerror or error}{kept}",
        )
    except KeyboardInterrupt as interrupt:
        _abandon_stdout()
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        stop(
            COMMAND,
            _INTERRUPTED + number,
            "interrupted" + "; the same command continues there" * bool(arguments.output),
        )
    raise SystemExit(status)


def _tag(arguments: argparse.Namespace) -> int:
    """The exit status. Raises what cannot be written, or interrupts; leaves by SystemExit for what cannot be done."""
    from audioset_dcls.tagging.job import EACH, run
    from audioset_dcls.tagging.journal import FolderRemovedError, JournalError
    from audioset_dcls.tagging.outputs import UsageError
    from audioset_dcls.tagging.recordings import find_recordings
    from audioset_dcls.tagging.session import ModelError
    from audioset_dcls.tagging.tagger import Tagger

    try:
        outputs, options = _asked_for(arguments)
    except ValueError as error:  # UsageError is one
        stop(COMMAND, USAGE, str(error))
    found = find_recordings(arguments.inputs)
    with _decoders(len(found.recordings), arguments.jobs) as decoders:
        try:
            tagger = Tagger(arguments.model, arguments.device, arguments.jobs)
            if arguments.list_labels:
                list_labels(tagger)
                return 0
            options = with_files(COMMAND, options.of(tagger), arguments, tagger)
        except ValueError as error:  # ModelError is one
            stop(COMMAND, USAGE, str(error))
        each, resume, quiet = arguments.channel == EACH, arguments.resume, arguments.quiet
        try:
            summary = run(found, tagger, options, outputs, resume, quiet, each, decoders)
        except (UsageError, JournalError, ModelError) as error:
            stop(COMMAND, 1 if isinstance(error, FolderRemovedError) else USAGE, str(error))
        sys.stdout.flush()
        if arguments.model is None and not quiet and sys.stderr.isatty():
            mention_better_ones()
    return summary.exit_status


def _tag_on_cluster(arguments: argparse.Namespace) -> int:
    """The exit status of `--ray`; raises and leaves as `_tag` does."""
    from audioset_dcls.cluster.run import EngineError, run
    from audioset_dcls.tagging.job import EACH
    from audioset_dcls.tagging.tagger import Tagger

    if arguments.channel == EACH:
        stop(COMMAND, USAGE, "--ray hears one channel of each file, or their mix: leave out --channel each")
    with extra(COMMAND, "cluster"):
        from audioset_dcls.cluster.engine import RayEngine
    try:
        outputs, options = _asked_for(arguments)
        tagger = Tagger(arguments.model, jobs=1)
        options = with_files(COMMAND, options, arguments, tagger)
        start = partial(RayEngine, arguments.ray or None, arguments.jobs, arguments.device)
        with open(os.devnull, "w") as null, redirect_stdout(null):  # noqa: PTH123 - Ray tells there of nodes that die
            summary = run(arguments.inputs, tagger, options, outputs, start, arguments.resume, arguments.quiet)
    except ValueError as error:  # UsageError, InputError, FolderError, ModelError
        stop(COMMAND, USAGE, str(error))
    except EngineError as error:
        stop(COMMAND, 1, f"{error}; what was done is kept, the same command continues")
    return summary.exit_status


def _asked_for(arguments: argparse.Namespace) -> tuple[Outputs, Options]:
    """What to write and how to tag. Raises ValueError for options that cannot be."""
    from audioset_dcls.tagging.job import EACH
    from audioset_dcls.tagging.outputs import Outputs, UsageError
    from audioset_dcls.tagging.results import Options
    from preprocessing.audio import MIX, to_channel

    outputs = Outputs(
        tuple(arguments.format.split(",")),
        arguments.output,
        arguments.separate,
        arguments.timeline,
        arguments.embeddings,
        arguments.plot,
        arguments.all_levels,
        arguments.clips,
        arguments.clips_per_class,
    )
    one = to_channel(MIX if arguments.channel == EACH else arguments.channel)
    options = Options(arguments.window, arguments.hop, arguments.threshold, arguments.top, channel=one)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError(f"jobs must be at least 1, not {arguments.jobs}")
    return outputs, options


def with_files(command: str, options: Options, arguments: argparse.Namespace, tagger: Tagger) -> Options:
    """With what the files of --labels and --thresholds say. Raises ValueError."""
    from audioset_dcls.tagging.selection import read_labels, read_thresholds

    if arguments.labels is not None:
        selection = read_labels(arguments.labels, tagger.labels, tagger.masked)
        options = replace(options, labels=selection.labels)
        if selection.unheard and not arguments.quiet:
            show(f"{command}: {arguments.labels}: this tagger cannot hear {', '.join(selection.unheard)}", sys.stderr)
    if arguments.thresholds is not None:
        options = replace(options, thresholds=read_thresholds(arguments.thresholds, tagger.labels))
    return options


def list_labels(tagger: Tagger) -> None:
    """Print a CSV with a line a class."""
    from audioset_dcls.tagging.selection import label_rows
    from audioset_dcls.tagging.writers.csv import csv_line

    for row in [("index", "mid", "name", "parents", "heard"), *label_rows(tagger.labels, tagger.masked)]:
        show(csv_line(row).removesuffix("\n"))
    sys.stdout.flush()


def mention_better_ones() -> None:
    """One line on stderr, once a user: a mark in the cache remembers it."""
    from audioset_dcls.folders import cache_folder

    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        (cache_folder() / "better_ones_mentioned").touch(exist_ok=False)
    except OSError:  # mentioned already, or it cannot be remembered
        return
    show(f"{COMMAND}: better taggers than the embedded one are a name away: {COMMAND} --list-models", sys.stderr)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _decoders(recordings: int, jobs: int | None) -> AbstractContextManager[DecoderPool | None]:
    """Processes that decode, which load their libraries while this one opens the model.

    None for a single recording: this process decodes it sooner, and there is no other one to lose.
    """
    if recordings < 2:
        return nullcontext()
    from preprocessing.cores import usable_cores
    from preprocessing.decoding.process import DecoderPool

    return DecoderPool(min(jobs or usable_cores(), recordings))


def _keep_stdout_for_results() -> None:
    """Let descriptor 1 lead nowhere, since C libraries print there, and `sys.stdout` to what it led to."""
    if not _has_descriptor(sys.stdout) or sys.stdout.fileno() != 1:
        return
    sys.stdout.flush()
    results = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    sys.stdout = open(results, "w", encoding="utf-8", errors="backslashreplace")  # noqa: PTH123, SIM115


def _has_descriptor(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() >= 0
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return False


def _abandon_stdout() -> None:
    """Nothing more can or should be written there; Python would try once more on its way out, and complain."""
    if _has_descriptor(sys.stdout):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
