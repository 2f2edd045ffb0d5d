"""dcls-review."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audioset_dcls.commands.parser import USAGE, create_parser, stop
from preprocessing.terminal import show

COMMAND = "dcls-review"


def main() -> None:
    """A page to judge what a store has of a class."""
    parser = create_parser(
        COMMAND,
        "Judge candidates of a class on a page in the browser, served on this machine alone: keys y, n and u. Shows "
        "the precision at each threshold. The answers are kept in the store, for dcls-teach --store.",
        epilog="exit status: 0 ended with Ctrl-C, 1 the store cannot be used, 2 usage",
    )
    parser.add_argument("store", type=Path, metavar="STORE.db")
    parser.add_argument("--label", required=True, metavar="CLASS", help="of the store's model")
    parser.add_argument(
        "--precision", type=float, default=0.9, metavar="P", help="wanted at the threshold (default: 0.9)"
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        metavar="CSV",
        help="keep the threshold there, for dcls-tag --thresholds (default: no)",
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="(default: a free one)")
    review(parser.parse_args())


def review(arguments: argparse.Namespace) -> None:
    """`dcls-review`; serves until Ctrl-C, leaves by SystemExit if something fails."""
    if not 0 < arguments.precision < 1:
        stop(COMMAND, USAGE, f"precision must be above 0 and below 1, not {arguments.precision:g}")
    from audioset_dcls.store.database import Database, StoreError
    from audioset_dcls.store.review.server import ReviewServer
    from audioset_dcls.store.search import class_of
    from audioset_dcls.store.thresholds import update_threshold
    from audioset_dcls.tagging.selection import read_thresholds

    path: Path | None = arguments.thresholds
    try:
        with Database(arguments.store, writable=True) as database:
            label = database.facts.labels[class_of(database, arguments.label)]
            if path is not None and path.exists():
                read_thresholds(path, database.facts.labels)  # before an answer is given

            def keep(threshold: float | None) -> None:
                if path is not None and threshold is not None:
                    update_threshold(path, label, threshold, database.facts.labels)

            with ReviewServer(database, label, arguments.precision, keep, arguments.port) as server:
                if not len(server.review.windows):
                    stop(COMMAND, 1, f"{arguments.store}: no window has a score of 0.01 for {label!r}")
                show(server.url)
                show(f"{COMMAND}: open this address in a browser; Ctrl-C ends", sys.stderr)
                sys.stdout.flush()
                try:
                    server.serve_forever()
                except KeyboardInterrupt:
                    show(f"{COMMAND}: the answers are in {arguments.store}", sys.stderr)
    except ValueError as error:
        stop(COMMAND, USAGE, str(error))
    except StoreError as error:
        stop(COMMAND, 1, str(error))
    except (OSError, OverflowError) as error:
        stop(COMMAND, 1, f"port {arguments.port} cannot be used: {getattr(error, 'strerror', None) or error}")
