"""dcls-search."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audioset_dcls.commands.parser import USAGE, create_parser, stop
from preprocessing.terminal import show

COMMAND = "dcls-search"
FORMATS = ("table", "json", "csv")


def main() -> None:
    """Places in a store that sound like an example, or like a class."""
    parser = create_parser(
        COMMAND,
        "Search a store of dcls-index: the places that sound most like a part of a recording (score: cosine), or those "
        "with the highest scores of a class. Neighbouring windows count as one place.",
        epilog="exit status: 0 done, 1 the store or a recording cannot be read, 2 usage",
    )
    parser.add_argument("store", type=Path, metavar="STORE.db")
    parser.add_argument("query", nargs="?", metavar="FILE", help="a recording of what to look for")
    parser.add_argument("--label", metavar="CLASS", help="look for a class of the store's model instead")
    parser.add_argument("--from", dest="start", type=seconds, metavar="TIME", help="of FILE: 12.5, 0:12.5 (default: 0)")
    parser.add_argument("--to", dest="end", type=seconds, metavar="TIME", help="of FILE (default: its end)")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="so many places (default: 20)")
    parser.add_argument("--clips", type=Path, metavar="DIR", help="each place as a FLAC file there (default: none)")
    parser.add_argument("--format", default="table", choices=FORMATS, help="of what is printed (default: table)")
    parser.add_argument("--model", metavar="NAME|PATH", help="that the store was made with (default: the embedded one)")
    search(parser.parse_args())


def seconds(text: str) -> float:
    """1:02:03.5, 2:03.5 or 123.5 as seconds. Raises ValueError."""
    total = 0.0
    for part in text.split(":"):
        value = float(part)
        if not 0 <= value < 1e6:
            raise ValueError("no time")
        total = 60 * total + value
    return total


def search(arguments: argparse.Namespace) -> None:
    """`dcls-search`; leaves by SystemExit if something fails."""
    start, end = arguments.start or 0.0, arguments.end
    if (arguments.query is None) == (arguments.label is None):
        stop(COMMAND, USAGE, "name a recording to look for, or a class with --label")
    if arguments.query is None and (arguments.start is not None or end is not None):
        stop(COMMAND, USAGE, "--from and --to are for a recording, not for --label")
    if end is not None and end <= start:
        stop(COMMAND, USAGE, "--to must be later than --from")
    if hasattr(sys.stdout, "reconfigure"):  # names in any language, wherever the output goes
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    from audioset_dcls.store.database import Database, StoreError
    from audioset_dcls.store.search import cut_clips, render, search_label, search_like
    from preprocessing.decoding.spans import AudioError

    failures: list[str] = []
    try:
        with Database(arguments.store) as database:
            if arguments.label is not None:
                hits, name = search_label(database, arguments.label, arguments.top), arguments.label
            else:
                from audioset_dcls.store.index import embedding_of
                from audioset_dcls.tagging.tagger import Tagger

                tagger = Tagger(arguments.model, jobs=1)
                embedding = embedding_of(database, arguments.query, start, end, tagger)
                hits, name = search_like(database, embedding, arguments.top), Path(arguments.query).stem
        sys.stdout.write(render(hits, arguments.format))
        sys.stdout.flush()
        if arguments.clips is not None:
            failures = list(cut_clips(hits, arguments.clips, name))
    except (StoreError, AudioError) as error:
        stop(COMMAND, 1, str(error))
    except ValueError as error:  # ModelError is one
        stop(COMMAND, USAGE, str(error))
    except OSError as error:
        stop(COMMAND, 1, f"{error.filename or 'stdout'}: cannot be written: {error.strerror or error}")
    if not hits:
        show(f"{COMMAND}: {arguments.store}: nothing found", sys.stderr)
    for failure in failures:
        show(f"{COMMAND}: {failure}", sys.stderr)
    raise SystemExit(1 if failures else 0)
