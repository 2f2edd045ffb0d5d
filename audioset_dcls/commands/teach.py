"""dcls-teach."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audioset_dcls.commands.parser import USAGE, create_parser, extra, stop
from preprocessing.terminal import show

COMMAND = "dcls-teach"


def main() -> None:
    """A tagger with own classes, from a handful of examples."""
    parser = create_parser(
        COMMAND,
        "Learn own classes from a handful of clips and write a tagger that has them, for dcls-tag --model and Tagger. "
        "Prints what to expect of it on other recordings.",
        epilog="exit status: 0 written, 1 written without examples that cannot be read, or not written, 2 usage and "
        "examples that nothing can be learned from",
    )
    parser.add_argument(
        "examples",
        nargs="?",
        type=Path,
        metavar="EXAMPLES",
        help="a folder with a folder for each class, of 5 to 50 clips each (background/ or other/: none of them); a "
        "CSV of file,start,end,label; or a folder of recordings with label files of Audacity or Raven beside them",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MY.onnx")
    parser.add_argument("--store", type=Path, metavar="STORE.db", help="learn from the answers of dcls-review, too")
    parser.add_argument(
        "--add", action="store_true", help="keep the tagger's classes, too (default: the new ones alone)"
    )
    parser.add_argument("--precision", type=float, default=0.9, metavar="P", help="wanted at thresholds (default: 0.9)")
    parser.add_argument("--model", metavar="NAME|PATH", help="the tagger to learn from (default: the embedded one)")
    parser.add_argument("--jobs", type=int, metavar="N", help="threads (default: one a core)")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """`dcls-teach`; leaves by SystemExit if something fails."""
    if arguments.examples is None and arguments.store is None:
        stop(COMMAND, USAGE, "name examples, or with --store a store with answers")
    with extra(COMMAND, "teach"):
        import onnx  # noqa: F401
        import sklearn  # noqa: F401

        from audioset_dcls.store.database import StoreError
        from audioset_dcls.store.teaching import teach
        from audioset_dcls.tagging.tagger import Tagger
        from preprocessing.decoding.process import DecoderPool

        try:
            with DecoderPool(1) as decoders:  # a decoder that crashes costs one example
                taught = teach(
                    arguments.examples,
                    arguments.output,
                    Tagger(arguments.model, jobs=arguments.jobs),
                    arguments.store,
                    arguments.add,
                    arguments.precision,
                    decoders.iter_audio,
                    lambda line: show(f"{COMMAND}: {line}", sys.stderr),
                )
        except ValueError as error:  # ModelError and ExamplesError are
            stop(COMMAND, USAGE, str(error))
        except StoreError as error:
            stop(COMMAND, 1, str(error))
        except OSError as error:
            stop(COMMAND, 1, f"{error.filename or arguments.output}: cannot be written: {error.strerror or error}")
    for failure in taught.failures:
        show(f"{COMMAND}: {failure}", sys.stderr)
    if hasattr(sys.stdout, "reconfigure"):  # names in any language, wherever the output goes
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.stdout.write(taught.report())
    show(
        f"{COMMAND}: wrote {taught.path} and {taught.thresholds} in {taught.seconds:.1f} s: "
        f"dcls-tag --model {taught.path} --thresholds {taught.thresholds} RECORDINGS",
        sys.stderr,
    )
    raise SystemExit(1 if taught.failures else 0)
