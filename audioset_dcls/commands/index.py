"""dcls-index."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audioset_dcls.commands.parser import USAGE, add_model, create_parser, extra, stop
from preprocessing.terminal import show

COMMAND = "dcls-index"
_INTERRUPTED = 130


def main() -> None:
    """Recordings into a store, to search, teach and review."""
    parser = create_parser(
        COMMAND,
        "Tag recordings and keep, for each window, its embedding and its scores in one SQLite file. The same command "
        "again adds what is new or changed and removes what is gone.",
        epilog="exit status: 0 all are in the store, 1 some failed (the others are) or lack sound of unknown length, "
        "2 usage, 130 interrupted",
    )
    parser.add_argument("inputs", nargs="+", metavar="FILE|FOLDER|GLOB", help="folders recursively")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="STORE.db", help="made if it is missing")
    add_model(parser)
    parser.add_argument("--window", type=float, metavar="S", help="as for dcls-tag (default: the store's)")
    parser.add_argument("--hop", type=float, metavar="S", help="from window to window (default: the store's)")
    parser.add_argument("--jobs", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument("--quiet", action="store_true", help="nothing but errors on stderr (default: off)")
    index(parser.parse_args())


def index(arguments: argparse.Namespace) -> None:
    """`dcls-index`; leaves by SystemExit."""
    with extra(COMMAND, "store"):
        import usearch  # noqa: F401

        from audioset_dcls.store.database import StoreError
        from audioset_dcls.store.update import update
        from audioset_dcls.tagging.tagger import Tagger
        from preprocessing.decoding.process import DecoderPool

        try:
            with DecoderPool(1) as decoders:  # which loads its libraries while the model is opened
                tagger = Tagger(arguments.model, jobs=arguments.jobs)
                done = update(
                    arguments.output,
                    arguments.inputs,
                    tagger,
                    arguments.window,
                    arguments.hop,
                    decoders,
                    arguments.quiet,
                )
        except ValueError as error:  # ModelError is one
            stop(COMMAND, USAGE, str(error))
        except StoreError as error:
            stop(COMMAND, 1, str(error))
        except OSError as error:
            name = error.filename or arguments.output
            stop(COMMAND, 1, f"{name}: cannot be written: {error.strerror or error}; the same command continues")
        except KeyboardInterrupt:
            stop(COMMAND, _INTERRUPTED, "interrupted; the same command continues")
    if not arguments.quiet:
        show(f"{COMMAND}: {arguments.output}: {done}", sys.stderr)
    raise SystemExit(done.exit_status)
