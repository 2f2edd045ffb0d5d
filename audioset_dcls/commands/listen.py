"""dcls-listen."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from audioset_dcls.commands.parser import USAGE, add_device, add_model, add_selection, create_parser, extra, stop

if TYPE_CHECKING:
    from audioset_dcls.tagging.results import Settings
    from audioset_dcls.tagging.tagger import Tagger
    from preprocessing.live import LiveSource

COMMAND = "dcls-listen"
STDIN = "-"


def main() -> None:
    """What sounds now."""
    parser = create_parser(
        COMMAND,
        "Listen to a microphone or a stream and tell which of AudioSet's 527 sounds begin and end: on the terminal, "
        "and as JSON lines on stdout if that leads elsewhere.",
        epilog="exit status: 0 the sound ended, or Ctrl-C; 1 it cannot be had or the output cannot be written; 2 usage",
    )
    parser.add_argument(
        "source",
        nargs="?",
        metavar="DEVICE|URL|-",
        help="an input by number or name, an address for ffmpeg, or stdin (default: the default microphone)",
    )
    parser.add_argument("--rate", type=int, metavar="HZ", help="stdin is 16-bit samples (default: a file, such as WAV)")
    parser.add_argument("--channels", type=int, default=1, metavar="N", help="of --rate, interleaved (default: 1)")
    add_selection(parser, "a window")
    tell = parser.add_argument_group("whom to tell")
    tell.add_argument("--record-clips", type=Path, metavar="DIR", help="each event as a FLAC file (default: none)")
    tell.add_argument("--mqtt", metavar="HOST", help="a broker, found by Home Assistant; HOST:PORT (default: none)")
    tell.add_argument("--run", metavar="COMMAND", help="start it when an event begins, without a shell (default: none)")
    tell.add_argument("--quiet", action="store_true", help="nothing but errors on stderr (default: off)")
    work = parser.add_argument_group("how to work")
    add_model(work)
    work.add_argument("--window", type=float, metavar="S", help="(default: as the tagger was trained)")
    work.add_argument("--hop", type=float, metavar="S", help="from window to window (default: as dcls-tag)")
    add_device(work)
    listen(parser.parse_args())


def listen(arguments: argparse.Namespace) -> None:
    """`dcls-listen`; leaves by SystemExit."""
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    from audioset_dcls.commands.tag import with_files
    from audioset_dcls.tagging.live.command import check_command
    from audioset_dcls.tagging.results import Options
    from audioset_dcls.tagging.session import ModelError
    from audioset_dcls.tagging.tagger import Tagger
    from preprocessing.audio import AudioError

    try:
        source = _source(arguments)
        options = Options(arguments.window, arguments.hop, arguments.threshold, arguments.top)
        tagger = Tagger(arguments.model, arguments.device)
        if arguments.run is not None:
            check_command(arguments.run)
        settings = with_files(COMMAND, options.of(tagger), arguments, tagger).of(tagger)
    except ValueError as error:  # ModelError is one
        stop(COMMAND, USAGE, str(error))
    try:
        with extra(COMMAND, "live"):
            _run(source, tagger, settings, arguments)
    except BrokenPipeError:  # `dcls-listen ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (AudioError, ModelError, ConnectionError) as error:
        stop(COMMAND, 1, str(error))
    except OSError as error:
        stop(COMMAND, 1, f"{error.filename or 'stdout'}: cannot be written: {error.strerror or error}")


def _source(arguments: argparse.Namespace) -> LiveSource:
    """Raises ValueError."""
    from preprocessing.audio import MAX_FILE_RATE, MIN_FILE_RATE
    from preprocessing.live import Address, Microphone, Piped, Samples

    name, rate, channels = arguments.source, arguments.rate, arguments.channels
    if rate is not None and name != STDIN:
        raise ValueError("--rate is for samples on stdin: name - as the source")
    if name == STDIN:
        if rate is None:
            return Piped(sys.stdin.buffer)
        if not MIN_FILE_RATE <= rate <= MAX_FILE_RATE or not 1 <= channels <= 64:
            raise ValueError(f"--rate must be {MIN_FILE_RATE} to {MAX_FILE_RATE} Hz, --channels 1 to 64")
        return Samples(sys.stdin.buffer, rate, channels)
    if name is not None and "://" in name:
        return Address(name)
    if name is not None and Path(name).is_file():
        raise ValueError(f"{name}: is a file; tag it with dcls-tag")
    return Microphone(name)


def _run(source: LiveSource, tagger: Tagger, settings: Settings, arguments: argparse.Namespace) -> None:
    from audioset_dcls.tagging.live.feed import Feed
    from audioset_dcls.tagging.live.listener import Listener
    from audioset_dcls.tagging.live.reporter import Listeners, Reporter
    from audioset_dcls.tagging.windows import window_warning

    rate, listener = tagger.model.sample_rate, Listener(tagger.model, settings)
    listeners = Listeners(arguments.record_clips, arguments.mqtt, arguments.run, arguments.all_levels, arguments.quiet)
    feed = Feed(source, rate, lambda line: reporter.note(line))
    with Reporter(source.name, listeners, rate, settings.window, feed.time_of) as reporter:
        if warning := window_warning(settings.window, tagger.clip_seconds):
            reporter.note(warning)
        try:
            for base, blocks in feed.segments():
                for news in listener.listen(base, reporter.pass_on(base, blocks)):
                    reporter.heard(news, listener.at, feed.elapsed - listener.at)
                reporter.segment_ended()
        except KeyboardInterrupt:  # the way to end it
            reporter.heard(listener.finish(), listener.at, 0.0)
            reporter.segment_ended()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)
